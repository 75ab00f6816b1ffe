"""The MONAI Label server as a person uses it. Runs by ``make label-test``: needs .label-venv, takes minutes.

One server for all tests, which tell one story in order: predict, correct, train, predict again. A test that needs what
an earlier one did fails when it is run alone.
"""

import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_paper.data import phantom
from unet_paper.data.reader import PageReader
from unet_paper.release import polygons
from unet_paper.running import checkpoint

pytestmark = [pytest.mark.label, pytest.mark.timeout(3600)]  # installing takes minutes, and so does training

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".label-venv" / "bin" / "python"
PORT = 8765
NAME = "unet_em_segmentation"
HEIGHT, WIDTH = 200, 280
PR_SET_PDEATHSIG = 1  # prctl(2)
SETUP_SECONDS, TASK_SECONDS = 900, 1800

# One call of MONAI Label's Python client, in the environment that has it.
CLIENT = """
import json, sys
from monailabel.client import MONAILabelClient
url, folder, call, arguments = sys.argv[1:]
print(json.dumps(getattr(MONAILabelClient(url, folder), call)(*json.loads(arguments))))
"""

IMAGES = {"eight_png": ".png", "eight_tif": ".tif", "sixteen_tif": ".tif", "volume": ".nii.gz", "jpeg": ".jpg"}
AFFINE = np.array([[0.5, 0, 0, 10], [0, 0.25, 0, -20], [0, 0, 1.0, 3], [0, 0, 0, 1]])


@dataclass
class Server:
    url: str
    studies: Path
    bundle: Path
    work: Path

    def request(self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str) -> Any:
        """Status, content and type of an answer."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TASK_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, content = self.request(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def client(self, call: str, *arguments: Any) -> Any:
        """What a method of MONAI Label's own client returns."""
        command = [str(PYTHON), "-c", CLIENT, self.url, str(self.work), call, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TASK_SECONDS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def infer(self, image: str, **params: Any) -> Path:
        """Label file that the client was given for an image."""
        file, _ = self.client("infer", NAME, image, {"device": "cpu", **params})
        return Path(file)

    def wait_for(self, task: str) -> Any:
        deadline = time.monotonic() + TASK_SECONDS
        while time.monotonic() < deadline:
            status = self.json("GET", f"/{task}/")
            if status["status"] in ("DONE", "ERROR"):
                return status
            time.sleep(1)
        raise TimeoutError(f"{task} did not end within {TASK_SECONDS} s")

    def direct(self, image: Path, what: str = "cells") -> np.ndarray:
        """Label image, or the probability of a cell, by our inference.yaml with the weights that the server uses."""
        out = self.work / "direct" / f"{image.name}-{checkpoint.sha256(self.bundle / 'models' / 'model.pt')[:8]}"
        if not out.exists():
            monai.bundle.run(
                run_id="run",
                config_file=str(ROOT / "bundle" / "configs" / "inference.yaml"),
                logging_file=False,
                dataset_dir=str(image),
                output_dir=str(out),
                ckpt_path=str(self.bundle / "models" / "model.pt"),
                device="cpu",
            )
        (file,) = (file for file in out.glob(f"*_{what}.*") if file.suffix != ".csv")
        return PageReader().get_data(str(file))[0]

    def loss(self, name: str, cells: np.ndarray) -> float:
        """-log p of the true class with the weights that the server uses, each class counting as much (Eq. 1, w_c)."""
        probability = self.direct(self.image(name), "probability").astype(np.float64)
        of_pixels = -np.log(np.where(cells, probability, 1 - probability))
        return float((of_pixels[cells].mean() + of_pixels[~cells].mean()) / 2)

    def image(self, name: str) -> Path:
        return self.studies / f"{name}{IMAGES[name]}"


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    return phantom.em_stack(len(IMAGES), (HEIGHT, WIDTH), seed=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, truth: tuple[np.ndarray, np.ndarray]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    studies.mkdir()
    eight, other, sixteen, volume, jpeg = truth[0]
    Image.fromarray(eight).save(studies / "eight_png.png")
    tifffile.imwrite(studies / "eight_tif.tif", other)
    tifffile.imwrite(studies / "sixteen_tif.tif", sixteen.astype(np.uint16) * 257)
    nibabel.save(nibabel.Nifti1Image(volume.T[..., None], AFFINE), studies / "volume.nii.gz")
    Image.fromarray(jpeg).save(studies / "jpeg.jpg", quality=95)
    command = [sys.executable, str(ROOT / "scripts" / "label_app" / "start.py"), "--port", str(PORT)]
    command += ["--images", str(studies), "--folder", str(folder)]
    if archive := os.environ.get("LABEL_TEST_ARCHIVE"):
        command += ["--archive", archive]
    log = folder / "launcher.log"
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_parent
        )
    try:
        deadline = time.monotonic() + SETUP_SECONDS
        while "MONAI Label serves" not in log.read_text():
            assert launcher.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        yield Server(f"http://127.0.0.1:{PORT}", studies, folder / "app" / "model" / NAME, folder)
    finally:
        _end(launcher, folder / "server.pid")
    assert not _listens(), "the server outlived its launcher"


def _end_with_parent() -> None:
    """Should pytest itself be killed, the launcher is told, and stops its server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(launcher: "subprocess.Popen[bytes]", pid: Path) -> None:
    """The launcher stops its server; if it cannot, both sessions are killed."""
    launcher.terminate()
    try:
        launcher.wait(60)
    finally:
        groups = [launcher.pid, int(pid.read_text())] if pid.is_file() else [launcher.pid]
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _listens(port: int = PORT) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def test_it_says_what_it_can_do(server: Server) -> None:
    info = server.client("info")
    assert info == server.json("GET", "/info/")
    assert list(info["models"]) == [NAME]
    assert info["models"][NAME]["labels"] == {"cell": 1}
    assert info["models"][NAME]["type"] == "segmentation"
    assert list(info["trainers"]) == [NAME]
    assert {"random", "epistemic"} <= set(info["strategies"])
    assert sorted(server.client("datastore")["objects"]) == sorted(IMAGES)


def test_the_next_image_is_drawn_at_random(server: Server) -> None:
    assert server.client("next_sample", "random", {})["id"] in IMAGES


def test_the_next_image_is_the_one_that_dropout_changes_most(server: Server) -> None:
    status = server.wait_for("scoring")
    assert status["status"] == "DONE", status["details"]
    objects = server.client("datastore")["objects"]
    entropy = {name: found["image"]["info"]["epistemic_entropy"] for name, found in objects.items()}
    assert {name: value for name, value in entropy.items() if not 0 < value < np.log(2)} == {}, "of two probabilities"
    assert server.client("next_sample", "epistemic", {})["id"] == max(entropy, key=lambda name: entropy[name])


@pytest.mark.parametrize("name", IMAGES)
def test_the_label_lies_over_the_image_and_equals_direct_inference(server: Server, name: str) -> None:
    expected = server.direct(server.image(name))
    assert expected.shape == (HEIGHT, WIDTH)
    assert expected.max() > 3
    file = server.infer(name)
    assert file.name.endswith(".png" if name == "jpeg" else IMAGES[name])
    np.testing.assert_array_equal(PageReader().get_data(str(file))[0], expected)
    status, content = server.request("POST", f"/infer/{NAME}?image={name}&output=image")
    assert status == 200
    assert content == file.read_bytes()
    if name == "volume":
        label = nibabel.load(file)
        assert label.shape == (WIDTH, HEIGHT, 1)
        np.testing.assert_allclose(label.affine, AFFINE, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(label.dataobj)[..., 0].T, expected)


def test_an_image_may_be_sent_along(server: Server) -> None:
    file, _ = server.client("infer", NAME, "", {"device": "cpu"}, None, str(server.image("eight_tif")))
    np.testing.assert_array_equal(tifffile.imread(file), server.direct(server.image("eight_tif")))


def test_a_program_with_one_segment_per_class_gets_a_mask(server: Server) -> None:
    expected = server.direct(server.image("eight_png"))
    mask = np.asarray(Image.open(server.infer("eight_png", cell_ids=False)))
    assert np.unique(mask).tolist() == [0, 1]
    assert not mask[expected == 0].any()
    np.testing.assert_array_equal(np.asarray(Image.open(server.infer("eight_png"))), expected)  # ids again


@pytest.mark.parametrize(
    ("name", "content", "status", "reason"),
    [
        ("cut.tif", lambda whole: whole[: len(whole) // 2], 422, "cannot be read"),
        ("colour.png", None, 422, "3 channels"),
        ("text.png", lambda _whole: b"no image", 422, "cannot be read"),
    ],
)
def test_a_bad_image_gets_a_clear_answer(server: Server, name: str, content: Any, status: int, reason: str) -> None:
    bad = server.studies / name
    if content is None:
        Image.fromarray(np.full((40, 40, 3), (200, 90, 30), np.uint8)).save(bad)
    else:
        bad.write_bytes(content(server.image("eight_tif").read_bytes()))
    try:
        _wait_until(lambda: bad.stem in server.client("datastore")["objects"])
        answer = server.request("POST", f"/infer/{NAME}?image={bad.stem}&output=image")
        assert answer[0] == status
        assert name in json.loads(answer[1])["detail"]
        assert reason in json.loads(answer[1])["detail"]
    finally:
        bad.unlink()
    _wait_until(lambda: bad.stem not in server.client("datastore")["objects"])


def _wait_until(true: Any) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_what_is_not_there_gets_a_clear_answer(server: Server) -> None:
    status, content = server.request("POST", f"/infer/{NAME}?image=nothing&output=image")
    assert (status, "image=nothing" in json.loads(content)["detail"]) == (404, True)
    status, content = server.request("POST", "/infer/other?image=eight_png&output=image")
    assert (status, "other" in json.loads(content)["detail"]) == (404, True)


def test_pages_of_other_sites_get_no_answer(server: Server) -> None:
    assert server.request("GET", "/info/", Origin="http://example.org")[0] == 403
    assert server.request("GET", "/info/", Host="example.org")[0] == 400
    assert server.request("GET", "/info/", Origin=server.url)[0] == 200


# --- what the programs with windows send, written anew from their code ------------------------------------------------


def multipart(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()]
    for name, (filename, content) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
        parts.append(head.encode() + content)
    body = b"".join(b"--mark\r\n" + part + b"\r\n" for part in parts) + b"--mark--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=mark"}


def test_slicer_gets_every_cell_and_no_id_starts_again(server: Server) -> None:
    """It asks for NRRD of one byte a pixel, and names the values by ``label_names``."""
    asked = {"device": "cpu", "cell_ids": True, "result_extension": ".nrrd", "result_dtype": "uint8"}
    file, answer = server.client(
        "infer", NAME, "eight_tif", {**asked, "result_compress": False, "model_filename": "model.pt"}
    )
    expected = server.direct(server.image("eight_tif"))
    found, _ = nrrd.read(file)
    np.testing.assert_array_equal(found.T, expected)
    assert sorted(answer["label_names"].values()) == np.unique(expected)[1:].tolist()
    _, answer = server.client("infer", NAME, "eight_tif", {**asked, "cell_ids": False})
    assert answer["label_names"] == {"cell": 1}


QUPATH = {"level": 0, "location": [0, 0], "size": [0, 0], "tile_size": [1024, 1024], "min_poly_area": 30}
CLICKS = {"foreground": [], "background": [], "max_workers": 1}


def test_qupath_gets_outlines_of_an_image_and_of_a_patch(server: Server) -> None:
    expected = server.direct(server.image("eight_png")) > 0
    body = json.dumps({**QUPATH, "min_poly_area": 0, "params": CLICKS})
    # Java names no type of a body
    there = server.request(
        "POST", f"/infer/wsi/{NAME}?output=asap&image=eight_png", body.encode(), **{"Content-Type": ""}
    )
    image = server.image("eight_png").read_bytes()
    data, headers = multipart({"wsi": body}, {"file": ("patch17.png", image)})
    sent = server.request("POST", f"/infer/wsi_v2/{NAME}?output=asap", data, **headers)
    for status, content in (there, sent):
        assert status == 200, content
        found = polygons.from_xml(content, expected.shape, "cell")
        assert found.max() > 3
        assert (found > 0)[expected].all(), "holes are filled, nothing is lost"
        assert ((found > 0) != expected).mean() < 0.01


def test_qupaths_annotations_become_a_label_image(server: Server) -> None:
    xml = polygons.to_xml([[(2.0, 3.0), (9.0, 3.0), (9.0, 8.0), (2.0, 8.0)]], "cell", (0, 0), {"Name": ""})
    data, headers = multipart({"params": "{}"}, {"label": ("sixteen_tif4711.xml", xml)})
    status, content = server.request("PUT", "/datastore/label?image=sixteen_tif&tag=drawn", data, **headers)
    assert status == 200, content
    saved = tifffile.imread(server.studies / "labels" / "drawn" / "sixteen_tif.tif")
    assert saved.shape == (HEIGHT, WIDTH)
    assert saved[3:8, 2:9].all()
    assert saved.sum() == 5 * 7


def test_cvat_gets_annotations(server: Server, tmp_path: Path) -> None:
    """Its detector saves the frame as JPEG, in colour, and asks for JSON."""
    frame = tmp_path / "frame.jpg"
    Image.open(server.image("eight_png")).convert("RGB").save(frame, quality=100, subsampling=0)
    _, answer = server.client("infer", NAME, "", {"output": "json"}, None, str(frame))
    contours = [
        contour
        for annotation in answer["annotations"]
        for element in annotation["annotation"]["elements"]
        for contour in element["contours"]
        if element["label"] == "cell"
    ]
    assert len(contours) > 3
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for contour in contours for x, y in contour)


@pytest.mark.parametrize("name", ["a.svs", "a.xml", "a.nrrd", "a.json"])
def test_labels_that_cannot_be_read_are_refused_and_not_kept(server: Server, name: str) -> None:
    before = server.client("datastore")["objects"]["jpeg"]["labels"]
    data, headers = multipart({"params": "{}"}, {"label": (name, b"no label")})
    status, content = server.request("PUT", "/datastore/label?image=jpeg&tag=final", data, **headers)
    assert status == 422, content
    assert server.client("datastore")["objects"]["jpeg"]["labels"] == before


def test_training_without_labels_says_what_to_do(server: Server) -> None:
    before = checkpoint.sha256(server.bundle / "models" / "model.pt")
    status = train(server, epochs=1)
    assert status["status"] == "ERROR"
    assert "save a label" in "\n".join(status["details"])
    assert checkpoint.sha256(server.bundle / "models" / "model.pt") == before


def test_corrected_labels_are_saved(server: Server, truth: tuple[np.ndarray, np.ndarray]) -> None:
    """Ids over TIFF, as napari saves them; a mask in NIfTI, as 3D Slicer saves it, for another and for a PNG image."""
    work = server.work / "drawn"
    work.mkdir()
    masks = (truth[1] > 0).astype(np.uint8)
    instances = np.asarray(server.direct(server.image("eight_tif")))
    corrected = np.where(masks[1] > 0, np.maximum(instances, 1), 0).astype(np.uint16)
    tifffile.imwrite(work / "eight_tif.tif", corrected)
    nibabel.save(nibabel.Nifti1Image(masks[0].T[..., None], np.eye(4)), work / "eight_png.nii.gz")
    nibabel.save(nibabel.Nifti1Image(masks[3].T[..., None], AFFINE), work / "volume.nii.gz")
    for file in sorted(work.iterdir()):
        image = file.name.split(".")[0]
        assert server.client("save_label", image, str(file), "final", {})["label"] == image
        saved = server.studies / "labels" / "final" / file.name
        assert saved.read_bytes() == file.read_bytes()
    status, content = server.request("GET", "/datastore/label?label=eight_tif&tag=final")
    assert status == 200
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), corrected)
    labelled = [name for name, found in server.client("datastore")["objects"].items() if "final" in found["labels"]]
    assert sorted(labelled) == ["eight_png", "eight_tif", "volume"]


def train(server: Server, epochs: int) -> Any:
    server.client("train_start", NAME, {"max_epochs": epochs, "val_split": 0.34, "device": "cpu", "multi_gpu": False})
    return server.wait_for("train")


def test_training_lowers_the_loss_and_its_weights_are_used(
    server: Server, truth: tuple[np.ndarray, np.ndarray]
) -> None:
    weights = server.bundle / "models" / "model.pt"
    cells = {name: truth[1][number] > 0 for number, name in enumerate(IMAGES)}
    released = checkpoint.sha256(weights)
    old_labels = {name: server.direct(server.image(name)) for name in IMAGES}
    old_loss = {name: server.loss(name, cells[name]) for name in IMAGES}
    status = train(server, epochs=8)
    assert status["status"] == "DONE", status["details"]
    table = (server.bundle / "runs" / "monai_label" / "metrics.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in table]
    losses = [float(row[header.index("val_loss")]) for row in rows]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert checkpoint.sha256(weights) != released
    new_loss = {name: server.loss(name, cells[name]) for name in IMAGES}
    print("loss of each image before and after:", old_loss, new_loss, "of validation by epoch:", losses)
    # in the mean of the three labelled images, and of the two that nobody has labelled
    for names in (["eight_png", "eight_tif", "volume"], ["sixteen_tif", "jpeg"]):
        assert sum(new_loss[name] for name in names) < sum(old_loss[name] for name in names)
    for name in ("jpeg", "sixteen_tif"):
        answer = PageReader().get_data(str(server.infer(name)))[0]
        np.testing.assert_array_equal(answer, server.direct(server.image(name)))
        assert (answer != old_labels[name]).any(), "the server answers with the weights of before"


def test_all_unlabelled_images_are_predicted_at_once(server: Server) -> None:
    broken = server.studies / "broken.png"
    broken.write_bytes(b"no image")
    try:
        _wait_until(lambda: "broken" in server.client("datastore")["objects"])
        settings = {"device": "cpu", "multi_gpu": False}
        result = server.json("POST", f"/batch/infer/{NAME}?images=unlabeled&run_sync=true", settings)
    finally:
        broken.unlink()
    assert sorted(result) == ["broken", "jpeg", "sixteen_tif"]
    assert "broken.png" in result["broken"]["error"]
    for name in ("jpeg", "sixteen_tif"):
        (label,) = (server.studies / "labels" / "original").glob(f"{name}.*")
        np.testing.assert_array_equal(PageReader().get_data(str(label))[0], server.direct(server.image(name)))


def test_the_app_trains_from_the_archives_own_code(server: Server) -> None:
    """unet_paper is not installed where the server runs; what it imports is in the archive."""
    found = subprocess.run([str(PYTHON), "-c", "import unet_paper"], capture_output=True, cwd=server.work)
    assert found.returncode != 0


# --- MONAI Label's own app, and nothing of ours but the archive -------------------------------------------------------


def test_the_stock_app_trains_publishes_and_infers_with_an_archive_alone(
    server: Server, truth: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    app, studies = tmp_path / "apps" / "monaibundle", tmp_path / "studies"
    shutil.copytree(PYTHON.parent.parent / "monailabel" / "sample-apps" / "monaibundle", app)
    (archived,) = (server.work / "archives").glob(f"{NAME}_v*.zip")
    with zipfile.ZipFile(archived) as content:
        content.extractall(app / "model")
    labels = studies / "labels" / "final"
    labels.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(truth[0][number]).save(studies / f"{number}.png")
        Image.fromarray((truth[1][number] > 0).astype(np.uint8)).save(labels / f"{number}.png")
    (labels / "2.png").write_bytes(b"no image")
    command = [str(PYTHON), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(PORT + 1), "--conf", "models", NAME]
    command += ["--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    environment = {**os.environ, "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    stock = Server(f"http://127.0.0.1:{PORT + 1}", studies, app / "model" / NAME, tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not _listens(PORT + 1):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        weights = stock.bundle / "models" / "model.pt"
        released = checkpoint.sha256(weights)
        before = Image.open(stock.infer("0")).tobytes()
        # as 3D Slicer sends it
        sent = {
            "device": "cpu",
            "pretrained": True,
            "max_epochs": 2,
            "val_split": 0.2,
            "multi_gpu": True,
            "gpus": "all",
        }
        sent |= {"tracking": "None", "tracking_uri": "", "tracking_experiment_name": "", "run_id": ""}
        stock.client("train_start", NAME, {**sent, "model_filename": "model.pt"})
        status = stock.wait_for("train")
        assert status["status"] == "DONE", status["details"]
        assert checkpoint.sha256(weights) != released
        rows = (stock.bundle / "runs" / "monai_label" / "metrics.csv").read_text().splitlines()
        assert len(rows) == 3
        assert any("left out" in line for line in (tmp_path / "log").read_text().splitlines())
        after = Image.open(stock.infer("0"))
        np.testing.assert_array_equal(np.asarray(after), stock.direct(studies / "0.png"))
        assert after.tobytes() != before
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)

"""Correct predictions and train on the corrections: MONAI Label's server with a release of this bundle.

    python scripts/label_app/start.py                       # the phantom, http://127.0.0.1:8000
    python scripts/label_app/start.py --images FOLDER       # your images; MONAI Label writes FOLDER/labels and an index
    python scripts/label_app/start.py --images STACK.tif    # its pages, copied to single files first

Everything else it writes goes to --folder: the app, the release with the weights that training replaces, runs, logs.
Its Python environment, .label-venv, is set up at the first start: MONAI Label's dependencies differ from ours.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tifffile
from PIL import Image

from unet_paper.data import phantom
from unet_paper.data.datasets import images
from unet_paper.data.reader import EXTENSIONS, PageReader, split_page
from unet_paper.release import archive, contents
from unet_paper.running import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".label-venv"
PINS = ROOT / "constraints-label.txt"
RELEASES = {"em": "unet_em_segmentation", "hela": "unet_hela_segmentation", "u373": "unet_u373_segmentation"}
LOOPBACK = ("127.0.0.1", "localhost")
START_SECONDS = 300
MAX_UPLOAD = 2**30
STOP_SECONDS = 20
# images scored for active learning after a start or a training, and predictions under dropout of each
SCORED_IMAGES = 32
SIMULATIONS = 5


def main() -> None:
    """Set up what is missing, start the server, say how to reach it, and stop it with this process."""
    arguments = _arguments()
    folder = arguments.folder.resolve()
    _check_port(arguments.host, arguments.port)
    token = read_token(arguments.token_file)
    set_up_environment()
    try:
        studies = prepare_images(arguments.images, arguments.release, folder)
        given = arguments.archive or build_archive(arguments.release, folder)
        contents.check_archive(given)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    name = prepare_app(given, folder, fresh=arguments.fresh)
    set_grey_range(folder / "app" / "model" / name / "configs", arguments.grey_minimum, arguments.grey_maximum)
    with serving(name, studies, folder, arguments.host, arguments.port, token, arguments.max_upload) as server:
        print(_welcome(name, studies, folder, arguments.host, arguments.port, token), flush=True)
        sys.exit(server.wait())


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"--host {host} --port {port}: {error.strerror}; choose another port")


def read_token(file: Path | None) -> str:
    """The token that the server will ask for, made if the file is not there; empty without a file."""
    if file is None:
        return ""
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(secrets.token_urlsafe(32) + "\n")
    token = file.read_text(encoding="utf-8").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        sys.exit(f"--token_file {file}: needs one line of at least 16 characters without spaces; name a new file")
    return token


def set_up_environment() -> None:
    """Install MONAI Label in the versions of constraints-label.txt, unless they are there."""
    pins, stamp = PINS.read_text(), ENVIRONMENT / "ready"
    if stamp.is_file() and stamp.read_text() == pins:
        return
    print(f"Setting up {ENVIRONMENT.name}: some minutes, once ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(PINS), "torch"], check=True)
    # All of them are listed, and MONAI Label's own demands on versions exclude those that the bundle was made with.
    subprocess.run([*pip, "--no-deps", "-r", str(PINS)], check=True)
    _mend_torchvision()
    stamp.write_text(pins)


def _mend_torchvision() -> None:
    """torchvision's wheel is built for CUDA; beside a PyTorch for the CPU it describes operators that are not there."""
    python = str(ENVIRONMENT / "bin" / "python")
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return
    (file,) = ENVIRONMENT.glob("lib/python*/site-packages/torchvision/_meta_registrations.py")
    text = file.read_text()
    for operator in ("nms", "qnms"):
        text = text.replace(
            f'@torch.library.register_fake("torchvision::{operator}")\n', "@(lambda function: function)\n"
        )
    file.write_text(text)
    subprocess.run([python, "-c", "import torchvision"], check=True)


def build_archive(release: str, folder: Path) -> Path:
    """Archive of a release, made anew from the bundle of this checkout."""
    bundle = ROOT / "bundle"
    return archive.build(bundle, archive.releases(bundle)[RELEASES[release]], folder / "archives")


def prepare_images(given: Path | None, release: str, folder: Path) -> Path:
    """Folder of single images: as given, or the pages of a stack, or a phantom."""
    if given is None:
        return _phantom(folder / "phantom" / release, release)
    if given.is_dir():
        addresses = [split_page(case["image"]) for case in images(given)]
        stacks = sorted({str(file) for file, page in addresses if page is not None})
        if stacks:
            print(f"MONAI Label shows no stacks: it will refuse {', '.join(stacks)}; give one of them as --images")
        return given.resolve()
    cases = images(given)
    target = folder / "pages" / given.name.split(".")[0]
    target.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        file = target / f"{target.name}_{number:04d}.tif"
        if not file.exists():
            tifffile.imwrite(file, PageReader().get_data(case["image"])[0])
    return target


def _phantom(target: Path, release: str) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    draw = phantom.em_stack if release == "em" else phantom.touching_cells
    for number, image in enumerate(draw(6, (288, 384), 0)[0]):
        file = target / f"phantom_{number}.png"
        if not file.exists():
            Image.fromarray(image).save(file)
    return target


def prepare_app(zipped: Path, folder: Path, *, fresh: bool = False) -> str:
    """MONAI Label's ``monaibundle`` app in ``folder``, with the archive's bundle in it.

    A bundle that has been trained is kept, with its weights and runs, unless a fresh one is asked for.

    Returns:
        Name of the bundle.
    """
    app = folder / "app"
    shutil.copytree(ENVIRONMENT / "monailabel" / "sample-apps" / "monaibundle", app, dirs_exist_ok=True)
    shutil.move(app / "main.py", app / "stock.py")
    for name in ("main.py", "server.py"):
        shutil.copy(Path(__file__).parent / name, app)
    with zipfile.ZipFile(zipped) as content:
        (name,) = {Path(member).parts[0] for member in content.namelist()}
        bundle = app / "model" / name
        stamp, checksum = bundle / "archive.sha256", checkpoint.sha256(zipped)
        if not fresh and stamp.is_file():
            if stamp.read_text() == checksum:
                return name
            if (bundle / "runs").is_dir():
                print(f"{bundle} was made from another archive and has been trained: kept; --fresh starts over")
                return name
        if bundle.is_dir():
            shutil.rmtree(bundle)
        content.extractall(app / "model")
    stamp.write_text(checksum)
    return name


def set_grey_range(configs: Path, minimum: float | None, maximum: float | None) -> None:
    """Write the grey values that are black and white in all images into the configs that MONAI Label reads."""
    given = {"grey_minimum": minimum, "grey_maximum": maximum}
    for name in ("inference.json", "train.json"):
        content = json.loads((configs / name).read_text(encoding="utf-8"))
        content |= {key: value for key, value in given.items() if value is not None}
        part = configs / f"{name}.part"
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(part, configs / name)


@contextlib.contextmanager
def serving(
    name: str, studies: Path, folder: Path, host: str, port: int, token: str = "", max_upload: int = MAX_UPLOAD
) -> Iterator[subprocess.Popen[bytes]]:
    """The running server; it ends with the block, and the trainings that it started with it."""
    app, log = folder / "app", folder / "server.log"
    environment = {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(app), str(app / "model" / name)]),
        "LABEL_ALLOWED_HOSTS": ",".join(LOOPBACK) if host in LOOPBACK else "*",
        "LABEL_TOKEN": token,
        "LABEL_MAX_UPLOAD": str(max_upload),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{kind}" for kind in EXTENSIONS]),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
    }
    conf = {
        "models": name,
        "zoo_source": "local",
        "sam2": "false",
        "epistemic_model": name,
        "epistemic_max_samples": SCORED_IMAGES,
        "epistemic_simulation_size": SIMULATIONS,
    }
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", host, "--port", str(port)]
    command += ["--uvicorn_app", "server:app"]
    command += [word for key, value in conf.items() for word in ("--conf", key, str(value))]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # MONAI Label takes an image's id for a file of the folder that it was started in
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=empty, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        (folder / "server.pid").write_text(str(server.pid))
        try:
            _wait_until_ready(server, f"http://{host}:{port}/info/", log)
            yield server
        finally:
            _stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            if error.code == 401:  # it asks for its token
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(1)
    sys.exit(f"MONAI Label did not start; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and the trainings and scorings that it started: all of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def _welcome(name: str, studies: Path, folder: Path, host: str, port: int, token: str) -> str:
    warning = ""
    if host not in LOOPBACK:
        asked = "its token goes over the network unencrypted" if token else "no authentication; give --token_file"
        warning = f"\nWARNING: --host {host}: {asked}; see bundle/docs/monai_label.md\n"
    return f"""{warning}
MONAI Label serves {name} on http://{host}:{port}   (log: {folder / "server.log"}; stop with Ctrl+C)
images:             {studies}
predicted labels:   {studies / "labels" / "original"}
your labels:        {studies / "labels" / "final"}
trained weights:    {folder / "app" / "model" / name / "models" / "model.pt"}

3D Slicer, QuPath, CVAT  their MONAI Label extensions, server http://{host}:{port}: see bundle/docs/monai_label.md
napari        open an image and its predicted label, correct it, save it under the image's name among your labels
any language  http://{host}:{port} in a browser lists the requests
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images, or a TIFF stack; default: a phantom")
    parser.add_argument("--release", choices=RELEASES, default="em", help="network to start from (default: em)")
    parser.add_argument("--archive", type=Path, help="archive of a release, instead of building it from this checkout")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, see --token_file")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "label", help="app, weights, runs, logs")
    parser.add_argument("--token_file", type=Path, help="ask every client for the token in this file; made if missing")
    parser.add_argument("--max_upload", type=int, default=MAX_UPLOAD, help="bytes that a request may have (1 GiB)")
    parser.add_argument("--grey_minimum", type=float, help="grey value that is black in all images; default: 0")
    parser.add_argument("--grey_maximum", type=float, help="and white; default: full scale of the files")
    parser.add_argument("--fresh", action="store_true", help="forget what was trained: start from the release again")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

"""What the model zoo checks, on the archives; and an archive at work where unet_paper is not installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai
import monai.bundle
import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT, TINY
from loopback import serving
from monai.bundle import ConfigParser, create_workflow

from unet_paper.data import phantom
from unet_paper.network import UNet
from unet_paper.release import archive, registry
from unet_paper.running import checkpoint

BUNDLE = ROOT / "bundle"
SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"
FEATURES = [2, 2, 2, 2, 2]
NAMES = sorted(archive.releases(BUNDLE))
EM = "unet_em_segmentation"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with every release, its weights replaced by tiny ones."""
    folder = tmp_path_factory.mktemp("dist")
    torch.manual_seed(3)
    checkpoint.save(UNet(features=FEATURES).state_dict(), folder / "tiny.pt")
    for release in archive.releases(BUNDLE).values():
        archive.build(BUNDLE, release, folder, weights=folder / "tiny.pt", settings={"features": FEATURES})
    return folder


@pytest.fixture(scope="module", params=NAMES)
def bundle(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an installed release."""
    return registry.install(request.param, dist, tmp_path_factory.mktemp("bundles"))


def metadata(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "configs" / "metadata.json").read_text()))


# --- what the model zoo checks ----------------------------------------------------------------------------------------


def test_files_and_changelog(bundle: Path) -> None:
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"):
        assert (bundle / name).is_file(), name
    facts = metadata(bundle)
    assert facts["changelog"][facts["version"]]
    assert facts["name"] in (bundle / "docs" / "README.md").read_text()
    assert not [file for file in bundle.rglob("*") if file.is_file() and file.stat().st_size > archive.LARGE]


def test_required_packages_are_the_ones_tested_with(bundle: Path) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    facts = metadata(bundle)
    assert facts["monai_version"] == pins["monai"]
    assert facts["pytorch_version"] == pins["torch"]
    assert facts["numpy_version"] == pins["numpy"]
    for name, version in facts["required_packages_version"].items():
        assert version == pins[name], name


def test_metadata_follows_the_schema(bundle: Path, real_data: Path, tmp_path: Path) -> None:
    schema = next((real_data / "schema").glob("*.json"))
    shutil.copy(schema, tmp_path / "schema.json")
    monai.bundle.verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"),
        filepath=str(tmp_path / "schema.json"),
        hash_val=SCHEMA_MD5,
        hash_type="md5",
    )


def test_network_takes_and_gives_what_the_metadata_says(bundle: Path) -> None:
    config = str(bundle / "configs" / "inference.json")
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file=str(bundle / "configs" / "metadata.json"), config_file=config, device="cpu"
    )
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def").eval()
    # verify_net_in_out does not look at the output's size
    facts = metadata(bundle)["network_data_format"]
    for n in (1, 2):
        sizes = []
        for part in (facts["inputs"]["image"], facts["outputs"]["pred"]):
            (size,) = {eval(pattern, {"n": n}) for pattern in part["spatial_shape"]}
            sizes.append(size)
        assert n > 1 or sizes == [572, 388]
        with torch.no_grad():
            assert network(torch.zeros(1, 1, sizes[0], sizes[0])).shape == (1, 2, sizes[1], sizes[1])


def test_workflow_properties(bundle: Path, em_folder: str, cells_folder: str, tmp_path: Path) -> None:
    data = em_folder if bundle.name == EM else cells_folder
    common = {"logging_file": False, "output_dir": str(tmp_path / "run"), "device": "cpu"}
    training = create_workflow(
        config_file=str(bundle / "configs" / "train.json"),
        workflow_type="train",
        dataset_dir=data,
        folds=2,
        **common,
    )
    assert training.check_properties() == []
    assert training.bundle_root == str(bundle)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint8))
    inference = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="inference",
        dataset_dir=str(tmp_path / "a.tif"),
        **common,
    )
    assert inference.check_properties() == []
    assert not (tmp_path / "run").exists()


def test_torchscript_export(bundle: Path, tmp_path: Path) -> None:
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
    )
    exported = torch.jit.load(tmp_path / "model.ts").eval()
    network = UNet(features=FEATURES).eval()
    checkpoint.load_weights(network, bundle / "models" / "model.pt")
    image = torch.rand(1, 1, 204, 220)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image), atol=1e-6, rtol=0)


def test_misspelt_settings_are_refused_in_an_archive_too(bundle: Path) -> None:
    with pytest.raises(RuntimeError) as info:
        monai.bundle.run(config_file=str(bundle / "configs" / "train.json"), logging_file=False, learnig_rate=0.1)
    assert "learning_rate" in str(info.value.__cause__)


# --- by name, where unet_paper is not installed -----------------------------------------------------------------------

# Runs with `python -S`: without site-packages' .pth files the editable installation of the project does not exist.
ALONE = """
import importlib.util, json, re, sys
from pathlib import Path
import monai.bundle as mb, tifffile, torch

url, name, expected, images, masks, tiny = json.loads(sys.argv[1])
spec = importlib.util.find_spec("unet_paper")
assert (spec and Path(spec.origin).parent.parent.name) == expected, spec

args = Path("download.json")
args.write_text(json.dumps({"url": url}))
for kind in ("inference", "training", "train"):
    network = mb.load(name, bundle_dir="bundles", workflow_type=kind, args_file=str(args), device="cpu")
    weights = torch.load(f"bundles/{name}/models/model.pt", weights_only=True)
    state = network.state_dict()
    assert {*state.keys(), "facts"} == weights.keys()
    assert all(torch.equal(state[key], weights[key].float()) for key in state), kind
    assert not any(isinstance(module, torch.nn.Dropout) for module in network.modules()), kind
scripted, told, _ = mb.load(name, bundle_dir="bundles", load_ts_module=True, device="cpu")
assert told["version"] == json.loads(Path("bundles", name, "configs", "metadata.json").read_text())["version"]
with torch.no_grad():
    image = torch.rand(1, 1, 204, 220, generator=torch.Generator().manual_seed(1))
    assert torch.equal(scripted.eval()(image), network.eval()(image))
root = Path("bundles", name).resolve()
assert Path(sys.modules["unet_paper"].__file__) == root / "unet_paper" / "__init__.py"

configs = root / "configs"
mb.verify_net_in_out("network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu")
mb.run(config_file=str(configs / "inference.json"), dataset_dir=images, output_dir="out", device="cpu")
# in Python, in the lines that the README has
page = (root / "docs" / "README.md").read_text()
(lines,) = re.findall(r"^```python\\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
assert len([line for line in lines.splitlines() if line]) == 5
lines = lines.replace('".."', '"bundles"').replace("models/", f"{root}/models/").replace("IMAGES/a.tif", images)
exec(lines)
assert (cells == tifffile.imread("out/a_cells.tif")).all()
assert not network.training
# exported, and by what was exported
both = lambda *names: [str(configs / f"{name}.json") for name in names]
mb.run(config_file=both("inference", "export"), export_path="own.ts")
mb.run(config_file=both("inference", "inference_torchscript"), ckpt_path="own.ts", dataset_dir=images, output_dir="ts")
assert (cells == tifffile.imread("ts/a_cells.tif")).all()
_, told = torch.jit.load("own.ts"), mb.load(name, model_file=str(Path("own.ts").resolve()), load_ts_module=True)[1]
assert told["cells_preset"]
mb.run(config_file=str(configs / "train.json"), dataset_dir=masks, output_dir="run", **tiny)
tiny = {**tiny, "quick_validation": True}
mb.run(config_file=str(configs / "evaluate.json"), dataset_dir=masks, output_dir="run", **tiny)
own = {"features": tiny["features"], "device": "cpu"}  # inference.json says those of the release
mb.run(config_file=str(configs / "inference.json"), dataset_dir=images, output_dir="run", **own)
ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "unet_paper"}
assert all(root in Path(module.__file__).parents for module in ours.values()), ours
"""


def alone(command: list[str], folder: Path, *, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder`` with the environment's packages but without the project; ``before`` them on the path."""
    site = [str(Path(monai.__file__).parent.parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(before), *site] if before else site),
        "OMP_NUM_THREADS": "1",
        "NUMBA_DISABLE_JIT": "1",  # compiling for a new folder takes longer than these few pixels
    }
    return subprocess.run(
        [sys.executable, "-S", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_everything_runs_by_name_beside_an_installed_package_of_another_version(
    dist: Path, em_folder: str, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "unet_paper"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the installed package of another version was taken')\n")
    tifffile.imwrite(tmp_path / "a.tif", phantom.em_stack(1, (50, 70), 4)[0][0])
    path = next(dist.glob(f"{EM}_v*.zip"))
    arguments = ["other", str(tmp_path / "a.tif"), em_folder, {**TINY, "max_epochs": 1}]
    with serving(dist) as url:
        words = json.dumps([f"{url}/{path.name}", EM, *arguments])
        done = alone(["-c", ALONE, words], tmp_path, before=other.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tifffile.imread(tmp_path / "out" / "a_cells.tif").shape == (50, 70)
    assert torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert "V_rand" in summary["scores"]
    # of the run's own weights, by its folder alone
    assert summary["checkpoint"]["path"] == os.path.join("run", "model.pt")
    assert summary["checkpoint"]["sha256"] == checkpoint.sha256(tmp_path / "run" / "model.pt")
    assert (tmp_path / "run" / "a_cells.tif").is_file()
    assert summary["checkpoint"]["sha256"] in (tmp_path / "run" / "predictions.json").read_text()
    assert f"weights: {os.path.join('run', 'model.pt')}, sha256 {summary['checkpoint']['sha256'][:12]}" in done.stdout


def test_the_released_network_segments_from_another_folder(tmp_path: Path) -> None:
    """The EM weights, from a local folder, by MONAI's command line; without unet_paper."""
    archived = archive.build(BUNDLE, archive.releases(BUNDLE)[EM], tmp_path / "dist")
    with pytest.warns(UserWarning, match="NOT verified"):
        monai.bundle.download(name=EM, url=archived.as_uri(), bundle_dir=str(tmp_path / "bundles"), progress=False)
    height, width = 200, 280
    image = phantom.em_stack(1, (height, width), 4)[0][0]
    tifffile.imwrite(tmp_path / "a.tif", image)
    config = os.path.join("bundles", EM, "configs", "inference.json")
    command = ["-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", "a.tif", "--output_dir", "out"]
    done = alone([*command, "--device", "cpu"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]

    # the same in one pass of the network over the mirrored image: 396 -> 212 rows, 476 -> 292 columns
    network = UNet(features=[32, 64, 128, 256, 512]).eval()
    checkpoint.load_weights(network, BUNDLE / "models" / "model.pt")
    mirrored = np.pad(image / 255, ((92, 396 - height - 92), (92, 476 - width - 92)), mode="reflect")
    with torch.no_grad():
        scores = network(torch.from_numpy((mirrored - 0.5) / 0.17).float()[None, None])
    expected = torch.softmax(scores, dim=1)[0, 1, :height, :width].numpy()
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out" / "a_probability.tif"), expected, atol=1e-5)
    assert tifffile.imread(tmp_path / "out" / "a_cells.tif").max() > 1

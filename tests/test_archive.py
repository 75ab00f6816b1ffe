"""Archives and registries: same files, same bytes; what is not in order is refused before anything is written."""

import ast
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from loopback import serving
from monai.bundle import ConfigParser

from unet_paper.network import UNet
from unet_paper.release import archive, archived_docs, carried_code, contents, model_card, registry, scripted_network
from unet_paper.running import checkpoint, facts

NAME = "unet_em_segmentation"
BUNDLE = ROOT / "bundle"
FEATURES = [2, 2, 2, 2, 2]
VERSION = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    checkpoint.save({"network": UNet(features=FEATURES).state_dict(), "epoch": 1}, path)  # as a last.pt
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A registry with the EM release, its weights replaced by tiny ones."""
    return build(tmp_path_factory.mktemp("dist"), weights)


def build(folder: Path, weights: Path, **changes: Any) -> Path:
    release = archive.releases(BUNDLE)[NAME]
    return archive.build(BUNDLE, release, folder, weights=weights, settings={"features": FEATURES}, **changes)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as content:
        return {name: content.read(name) for name in content.namelist()}


# --- building ---------------------------------------------------------------------------------------------------------


def test_the_post_processing_of_a_release_is_chosen_with_its_own_weights(
    weights: Path, em_folder: str, tmp_path: Path
) -> None:
    """A recipe that averages weights validates a network beside the one that weights are loaded into."""
    release = archive.releases(BUNDLE)[NAME]
    small = {"folds": 2, "device": "cpu", "threads": 1}

    def scores(path: Path, decay: float | None) -> list[float]:
        facts = archive.release_facts(BUNDLE, release, path, {**small, "average_decay": decay}, em_folder)
        return [row["value"] for row in facts.training["cells_choice"]["curve"]]

    torch.manual_seed(4)
    other = tmp_path / "other.pt"
    checkpoint.save(UNet(features=FEATURES).state_dict(), other)
    plain = [scores(path, None) for path in (weights, other)]
    assert plain[0] != plain[1]
    assert [scores(path, 0.9) for path in (weights, other)] == plain


def test_the_same_files_give_the_same_bytes(built: Path, weights: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "copy" / "bundle"
    shutil.copytree(BUNDLE, bundle, copy_function=shutil.copyfile)  # other times, other modes
    for folder in (bundle, *bundle.rglob("*")):
        folder.chmod(0o700)
    (bundle / "docs" / "left_over.md.part").write_text("")
    scripted_network._by_a_new_process.cache_clear()
    release = archive.releases(bundle)[NAME]
    again = archive.build(bundle, release, tmp_path, weights=weights, settings={"features": FEATURES})
    assert again.read_bytes() == built.read_bytes()
    assert (tmp_path / registry.INFO).read_bytes() == built.with_name(registry.INFO).read_bytes()
    assert str(ROOT).encode() not in members(built)[f"{NAME}/models/model.ts"]


def test_what_an_archive_holds(built: Path, weights: Path) -> None:
    content = members(built)
    with zipfile.ZipFile(built) as file:
        assert file.namelist() == sorted(file.namelist())
        assert {(member.date_time, stat.S_IMODE(member.external_attr >> 16)) for member in file.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o644)
        }
    assert built.name == f"{NAME}_v{VERSION}.zip"
    packed = torch.load(io.BytesIO(content[f"{NAME}/models/model.pt"]), weights_only=True)
    given = torch.load(weights, weights_only=True)["network"]
    assert packed.keys() == {*given.keys(), "facts"}
    assert all(torch.equal(packed[name], given[name].half()) for name in given)
    assert content[f"{NAME}/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert content[f"{NAME}/docs/data_license.txt"] == (BUNDLE / "docs" / "data_license.txt").read_bytes()
    code = {f"{NAME}/{file.relative_to(ROOT)}" for file in (ROOT / "unet_paper").rglob("*.py")}
    assert code == {name for name in content if name.endswith(".py")}
    assert {name for name in content if "/configs/" in name} == {
        f"{NAME}/configs/{name}"
        for name in (
            "evaluate.json",
            "evaluate_folder.json",
            "export.json",
            "export_bioimage_io.json",
            "fine_tune.json",
            "inference.json",
            "inference_large.json",
            "inference_onnx.json",
            "inference_torchscript.json",
            "inference_trt.json",
            "logging.conf",
            "metadata.json",
            "many_images.json",
            "multi_gpu_evaluate.json",
            "robustness.json",
            "multi_gpu_train.json",
            "train.json",
            "train_folder.json",
            "train_large.json",
            "training.json",
        )
    }


def test_the_flattened_configs_say_what_the_merged_ones_say(built: Path) -> None:
    content = members(built)
    train, inference = (json.loads(content[f"{NAME}/configs/{name}.json"]) for name in ("train", "inference"))
    merged = ConfigParser()
    merged.read_config([str(BUNDLE / "configs" / f"{n}.yaml") for n in ("train", "data_isbi2012", "best_isbi2012")])
    assert train["validate"]["key_metric"].keys() == merged["validate"]["key_metric"].keys()
    # inside MONAI Label it is another one
    assert train["learning_rate"]["otherwise"] == merged["learning_rate"]
    assert train["optimizer"] == merged["optimizer"]
    assert train["flip"] is merged["flip"]
    # the weights in the archive fit both: prediction asks them, training goes on with what they say
    facts = json.loads(bytes(torch.load(io.BytesIO(content[f"{NAME}/models/model.pt"]), weights_only=True)["facts"]))
    for name in ("preset", "grey_mean", "grey_std", "cells_preset", "magnification"):
        assert train[name] == facts[name], name
        assert inference[name] == f"$@facts['{name}']", name
    assert train["features"] == facts["features"] == FEATURES
    assert train["network_def"] == inference["network_def"]
    assert content[f"{NAME}/configs/train.json"] == content[f"{NAME}/configs/training.json"]
    assert "yaml" not in content[f"{NAME}/configs/inference.json"].decode()


def test_overlays_of_an_archive_use_the_code_that_it_carries(built: Path) -> None:
    content = {name: data.decode() for name, data in members(built).items() if name.endswith(".json")}
    overlay = json.loads(content[f"{NAME}/configs/multi_gpu_train.json"])
    assert overlay["secondary"] == "$@engines.is_secondary()"
    scripted = json.loads(content[f"{NAME}/configs/inference_torchscript.json"])["network_def"]
    assert scripted["_requires_"] == ["@carried_code"]
    for name, text in content.items():
        assert "$import unet_paper" not in text, name


def test_other_weights_are_not_praised_with_the_scores_of_the_release(built: Path) -> None:
    content = members(built)
    metadata = json.loads(content[f"{NAME}/configs/metadata.json"])
    assert "eval_metrics" not in metadata
    page = content[f"{NAME}/docs/README.md"].decode()
    assert "not recorded for these weights" in page
    assert "0.9726" not in page


# --- what its pages say -----------------------------------------------------------------------------------------------

# a file by its path or extension; a module that is run; a picture or a page that is linked
NAMED = (
    r"\b(?:configs|docs|scripts|tests|bundle|figures|unet_paper)/[\w./-]*\w",
    r"\b[\w./]+\.(?:ya?ml|md|conf|py)\b",
    r"\]\((?!https?:)([^)#]+)",
    r"python -m (unet_paper[\w.]*)",
    r"\bmake \w+(?=`| *$)",
)
# of a file that a command writes
THEIRS = {"rdf.yaml", "network.py"}


def test_every_config_script_and_path_in_its_pages_is_in_the_archive(built: Path) -> None:
    content = members(built)
    inside = {name.removeprefix(f"{NAME}/") for name in content}
    pages = {name: content[name].decode() for name in content if name.endswith(".md")}
    assert len(pages) == 1 + len(archived_docs.PAGES)
    commands = 0
    for page, text in pages.items():
        commands += len(re.findall(r"^(?:python|torchrun) ", text, re.MULTILINE))
        named = {name for pattern in NAMED for name in re.findall(pattern, text, re.MULTILINE)} - THEIRS
        named = {f"{name.replace('.', '/')}.py" if name.startswith("unet_paper.") else name for name in named}
        found = {name for name in named for folder in ("", "docs/", "configs/") if f"{folder}{name}" in inside}
        assert sorted(named - found) == [], page
        assert "<!--" not in text, page
        assert not re.search(r"unet_paper\[|checkout", text), page
        for files in re.findall(r"--config_file (?:\"\[(.*?)\]\"|(\S+))", text):
            assert {file.strip("'") for file in "".join(files).split(",")} <= inside, (page, files)
    assert commands > 25


def test_a_page_that_names_what_an_archive_lacks_is_refused(weights: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    page = bundle / "docs" / "export.md"
    for line, named in (
        ("then run `python scripts/prepare_data.py`", r"docs/export.md: names scripts/prepare_data.py"),
        ("see [choices.md](choices.md)", r"docs/export.md: names choices.md"),
        ("with `data_isbi2012.yaml`", r"docs/export.md: names data_isbi2012.yaml"),
        (
            "--config_file \"['configs/inference.yaml','configs/data_large.yaml']\"",
            r"'data_large'\]: no config of an arch",
        ),
    ):
        page.write_text((BUNDLE / "docs" / "export.md").read_text() + line + "\n")
        with pytest.raises(ValueError, match=named):
            archive.build(bundle, archive.releases(bundle)[NAME], tmp_path / "dist", weights=weights)
    assert not (tmp_path / "dist").exists()


def test_the_readme_has_the_sections_of_the_zoo_and_its_facts(built: Path) -> None:
    content = members(built)
    page, metadata = content[f"{NAME}/docs/README.md"].decode(), json.loads(content[f"{NAME}/configs/metadata.json"])
    headings = re.findall(r"^#+ \**([^*\n]+)\**$", page, re.MULTILINE)
    wanted = "Authors,Tags,Model Description,Data,Preprocessing,Training configuration,Input,Output,Memory,Performance,"
    wanted += "Commands,System Configuration,Limitations,Citation Info,References,License"
    assert [name for name in headings if name in wanted.split(",")] == wanted.split(",")
    assert metadata["weights_license"] in page
    (line,) = re.findall(r"^pip install (torch.*)$", page, re.MULTILINE)
    assert line.split() == model_card.required(metadata)
    others = " ".join(re.findall(r"^pip install (?!torch)(.*)$", page, re.MULTILINE)).split()
    assert dict(word.split("==") for word in others) == metadata["optional_packages_version"]
    assert metadata["python_version"] == f">={model_card.MINIMUM_PYTHON}"


def test_weights_have_terms_of_their_own() -> None:
    for name, release in archive.releases(BUNDLE).items():
        terms = release.metadata["weights_license"]
        assert "Apache" not in terms.replace("Not Apache-2.0", ""), name
        assert "docs/data_license.txt" in terms, name


def test_the_cards_of_all_releases_are_written_from_the_same_facts() -> None:
    text = (BUNDLE / "docs" / "README.md").read_text()
    cards = [
        model_card.card_table(release.weights, release.card, release.metadata["weights_license"])
        for release in archive.releases(BUNDLE).values()
    ]
    between = text.partition("<!-- cards:begin -->\n")[2].partition("<!-- cards:end -->")[0]
    assert between == "\n".join(cards), "run scripts/package_bundle.py --cards"


# import names that are not those of the packages
PACKAGES = {
    "PIL": "pillow",
    "ignite": "pytorch-ignite",
    "skimage": "scikit-image",
    "yaml": "PyYAML",
    "nrrd": "pynrrd",
    "numcodecs": "zarr",
}
BASE = {"torch", "monai", "numpy"}
# for NVIDIA GPUs, in a version that CUDA decides; for who publishes releases; readers of microscopes' files
NOT_LISTED = {"torch_tensorrt", "huggingface_hub", "bioio", "bioio_base"}


def test_every_package_that_the_carried_code_imports_is_listed(built: Path) -> None:
    content = members(built)
    metadata = json.loads(content[f"{NAME}/configs/metadata.json"])
    always: set[str] = set()
    sometimes: set[str] = set()
    for name, data in content.items():
        if not name.endswith(".py"):
            continue
        tree = ast.parse(data)
        # images in blocks are a wing of their own
        at_once = always if "/large/" not in name else sometimes
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            calls = isinstance(node, ast.Call) and "required" in (
                getattr(node.func, "id", ""),
                getattr(node.func, "attr", ""),
            )
            if calls and isinstance(node.args[0], ast.Constant):
                found.append(node.args[0].value)
            roots = {module.split(".")[0] for module in found} - set(sys.stdlib_module_names) - {"unet_paper"}
            (at_once if node in tree.body else sometimes).update(PACKAGES.get(root, root) for root in roots)
    required, optional = set(metadata["required_packages_version"]), set(metadata["optional_packages_version"])
    assert always - BASE - {"zarr"} <= required
    assert sometimes - BASE - required - optional - NOT_LISTED == set()


def test_optional_packages_are_those_of_the_extras_in_the_versions_tested_with() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    optional = yaml.safe_load((BUNDLE / "optional_packages.yaml").read_text())
    for name, packages in optional.items():
        # an extra may be another one of ours
        texts = [text for entry in extras.get(name, ["jsonschema"]) for text in extras.get(entry[11:-1], [entry])]
        listed = re.findall(r"[a-z_]+", " ".join(re.split("[><=]", text)[0] for text in texts))
        assert set(packages) == set(listed), name
        assert {package: pins[package] for package in packages} == packages, name


def test_metadata_is_of_this_release() -> None:
    base = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    table = archive.releases(BUNDLE)
    assert set(table) == {"unet_em_segmentation", "unet_hela_segmentation", "unet_u373_segmentation"}
    for name, release in table.items():
        assert not set(release.metadata) & {"version", "changelog", "network_data_format"}, name
        assert release.metadata["task"] != base["task"]
        if (BUNDLE / release.weights).is_file():
            assert release.metadata["eval_metrics"], f"{name} has weights but no results"


def test_results_are_those_that_reproduce_tables_wrote_for_these_weights() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    for name, release in archive.releases(BUNDLE).items():
        (line,) = (line for line in lines if f"`{checkpoint.sha256(BUNDLE / release.weights)[:12]}`" in line)
        for score, value in release.metadata["eval_metrics"].items():
            assert f"{score} {value:.{6 if value < 0.01 else 4}f}" in line, name


def test_missing_weights_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    release = replace(archive.releases(BUNDLE)[NAME], weights="models/none.pt")
    with pytest.raises(FileNotFoundError) as info:
        archive.build(BUNDLE, release, tmp_path)
    assert str(BUNDLE / "models" / "none.pt") in str(info.value)
    assert "data_isbi2012.yaml" in str(info.value)
    assert "export_weights.py" in str(info.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_or_are_not_the_named_ones_are_refused(weights: Path, tmp_path: Path) -> None:
    release = archive.releases(BUNDLE)[NAME]
    with pytest.raises(ValueError, match=r"architecture.*--features"):
        archive.build(BUNDLE, release, tmp_path / "dist", weights=weights, settings={"features": [4, 8, 32]})
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    (bundle / release.weights).write_bytes((BUNDLE / release.weights).read_bytes() + b"0")
    with pytest.raises(ValueError, match="ckpt_sha256"):
        archive.build(bundle, release, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(("version", "changelog"), [("0.1.0", {}), ("9.9.9", {"9.9.9": "not of this code"})])
def test_a_version_needs_a_changelog_entry_and_code(
    version: str, changelog: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata.update(version=version, changelog=changelog)
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=f"version={version}"):
        archive.build(bundle, archive.releases(bundle)[NAME], tmp_path / "dist", weights=weights)


def test_large_weights_are_listed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive, "LARGE", 5000)
    alone = build(tmp_path, weights)  # nowhere to say that they will be served from: whole, and named
    assert f"{NAME}/models/model.pt" in members(alone)
    assert f"{NAME}/large_files.yml" not in members(alone)
    assert f"{NAME}_v{VERSION}: models/model.pt" in caplog.text
    assert "--base_url" in caplog.text
    path = build(tmp_path, weights, base_url="https://example.org/releases/")
    listed = ConfigParser.load_config_file(_written(tmp_path, members(path)[f"{NAME}/large_files.yml"]))["large_files"]
    mine = next(entry for entry in listed if entry["path"] == "models/model.pt")
    assert mine["url"] == f"https://example.org/releases/{NAME}_v{VERSION}_model.pt"
    packed = hashlib.sha256(members(path)[f"{NAME}/models/model.pt"]).hexdigest()
    assert (mine["hash_type"], mine["hash_val"]) == ("sha256", packed)
    entry = json.loads((tmp_path / registry.INFO).read_text())[path.stem]
    assert entry["source"] == f"https://example.org/releases/{path.name}"


def _written(folder: Path, data: bytes) -> str:
    (folder / "large_files.yml").write_bytes(data)
    return str(folder / "large_files.yml")


@pytest.mark.parametrize("named", [True, False])
def test_the_command_builds_what_has_weights(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output_dir", str(tmp_path), *(["--release", NAME] if named else [])]
    monkeypatch.setattr(sys, "argv", ["package_bundle.py", *words])
    runpy.run_path(str(ROOT / "scripts" / "package_bundle.py"), run_name="__main__")
    table = archive.releases(BUNDLE)
    there = [NAME] if named else [name for name in table if (BUNDLE / table[name].weights).is_file()]
    assert {path.name for path in tmp_path.glob("*.zip")} == {f"{name}_v{VERSION}.zip" for name in there}
    for name in there:
        path = tmp_path / f"{name}_v{VERSION}.zip"
        contents.check_archive(path)
        assert members(path)[f"{name}/models/model.pt"] == (BUNDLE / table[name].weights).read_bytes()
    left_out = set() if named else set(table) - set(there)
    assert {
        line.split(": ")[1].split(",")[0] for line in capsys.readouterr().out.splitlines() if "left out" in line
    } == (left_out)


@pytest.mark.parametrize(("own", "data"), [("models/u373.pt", "PhC-C2DH-U373"), ("models/hela.pt", "DIC-C2DH-HeLa")])
def test_weights_of_a_run_take_the_place_of_the_release_of_their_data(own: str, data: str, tmp_path: Path) -> None:
    told = facts.Facts.of(checkpoint.read_weights_and_facts(BUNDLE / own)[1])
    assert told is not None
    assert told.training["data"] == data
    told = replace(told, features=FEATURES)
    torch.manual_seed(3)
    path = tmp_path / "of_a_run.pt"
    checkpoint.save({**UNet(features=FEATURES).state_dict(), "facts": told.to_tensor()}, path)
    assert archive.release_of(BUNDLE, path).weights == own
    other = replace(told, training={**told.training, "data": "wells"})
    checkpoint.save({**UNet(features=FEATURES).state_dict(), "facts": other.to_tensor()}, path)
    with pytest.raises(ValueError, match=rf"of_a_run.pt: trained on wells, .*--release {NAME}"):
        archive.release_of(BUNDLE, path)


def test_weights_that_do_not_tell_of_their_data_need_a_release(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["package_bundle.py", "--weights", str(weights), "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit) as info:
        runpy.run_path(str(ROOT / "scripts" / "package_bundle.py"), run_name="__main__")
    assert info.value.code == 1
    assert f"--release {NAME}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip"))


def test_the_command_refuses_a_release_without_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--release", NAME, "--weights", str(tmp_path / "none.pt"), "--output_dir", str(tmp_path / "dist")]
    monkeypatch.setattr(sys, "argv", ["package_bundle.py", *words])
    with pytest.raises(SystemExit) as info:
        runpy.run_path(str(ROOT / "scripts" / "package_bundle.py"), run_name="__main__")
    assert info.value.code == 1
    assert "none.pt" in capsys.readouterr().err


# --- configs that find their code -------------------------------------------------------------------------------------


def test_carried_configs_import_nothing_of_the_package_and_gate_every_use() -> None:
    config = {
        "imports": ["$import math", "$import unet_paper.geometry as geometry"],
        "bundle_root": "$anything",
        "size": "$geometry.output_size(572) + math.floor(0.5)",
        "name": "geometry.output_size is text here",
        "nested": {"list": [{"_target_": "unet_paper.network.UNet", "features": [2], "_requires_": "@size"}]},
        "other": {"_target_": "torch.nn.ReLU"},
    }
    carried = carried_code.carry(config)
    assert not any("unet_paper" in statement for statement in carried["imports"])
    assert "$import math" in carried["imports"]
    assert carried["size"] == "$@geometry.output_size(572) + math.floor(0.5)"
    assert carried["name"] == config["name"]
    assert carried["nested"]["list"][0]["_requires_"] == ["@carried_code", "@size"]
    assert carried["other"] == config["other"]
    parser = ConfigParser({**carried, "bundle_root": str(ROOT)})
    before = list(sys.path)
    try:
        assert parser.get_parsed_content("size") == 388
    finally:
        sys.path[:] = before


def test_a_setting_named_like_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match="geometry"):
        carried_code.carry({"imports": ["$import unet_paper.geometry as geometry"], "geometry": 1})


def test_another_version_in_the_same_process_is_refused() -> None:
    carried_code.check_version(VERSION)
    with pytest.raises(RuntimeError, match=r"99\.0\.0"):
        carried_code.check_version("99.0.0")


# --- registry ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "file URL", "server"])
def source(request: pytest.FixtureRequest, built: Path) -> Iterator[str]:
    if request.param == "server":
        with serving(built.parent) as url:
            yield url
    else:
        yield str(built.parent) if request.param == "folder" else built.parent.as_uri()


def test_an_archive_is_installed_whole(source: str, built: Path, tmp_path: Path) -> None:
    folder = registry.install(NAME, source, tmp_path / "bundles")
    assert folder == tmp_path / "bundles" / NAME
    found = {f"{NAME}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == members(built)
    assert list(folder.parent.iterdir()) == [folder]
    with pytest.raises(FileExistsError, match=NAME):
        registry.install(NAME, source, tmp_path / "bundles")


def test_versions_are_compared_as_numbers(built: Path, tmp_path: Path) -> None:
    versions = ("0.9.0", "0.10.0")
    entries = {f"{NAME}_v{version}": {"checksum": "0" * 40, "source": f"{version}.zip"} for version in versions}
    (tmp_path / registry.INFO).write_text(json.dumps(entries))
    with pytest.raises(FileNotFoundError, match=r"0\.10\.0\.zip"):
        registry.install(NAME, tmp_path, tmp_path / "bundles")
    with pytest.raises(LookupError, match=r"0\.11\.0.*0\.10\.0"):
        registry.install(NAME, tmp_path, tmp_path / "bundles", version="0.11.0")
    with pytest.raises(LookupError, match="unet_other"):
        registry.install("unet_other", built.parent, tmp_path / "bundles")


def _published(
    folder: Path, content: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None
) -> Path:
    """A registry that vouches for an archive of this content."""
    path = folder / f"{NAME}_v{VERSION}.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            member = zipfile.ZipInfo(name)
            if change is not None and name.endswith("LICENSE"):
                change(member)
            file.writestr(member, data)
    registry.enter(path)
    return path


def _refused(folder: Path, message: str) -> None:
    bundles = folder / "bundles"
    bundles.mkdir()
    before = set(folder.rglob("*"))
    with pytest.raises(ValueError, match=message):
        registry.install(NAME, folder, bundles)
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (f"{NAME}/../escaped.md", "plain relative path"),
        ("/absolute.md", "plain relative path"),
        (f"{NAME}\\docs\\windows.md", "plain relative path"),
        ("C:/drive.md", "plain relative path"),
        (f"{NAME}//docs/a.md", "plain relative path"),
        (f"{NAME}/docs/", "plain relative path"),
        ("other/docs/a.md", f"outside {NAME}/"),
        ("sitecustomize.py", f"outside {NAME}/"),
        (f"{NAME}/sitecustomize.py", "does not belong"),
        (f"{NAME}/configs/hook.py", "does not belong"),
        (f"{NAME}/models/model.py", "does not belong"),
        (f"{NAME}/torch/__init__.py", "does not belong"),
        (f"{NAME}/unet_paper/fast.so", "does not belong"),
        (f"{NAME}/unet_paper/start.pth", "does not belong"),
        (f"{NAME}/docs/figures.exe", "does not belong"),
        (f"{NAME}/docs/readme.md", "twice"),
    ],
)
def test_members_in_the_wrong_place_are_refused(member: str, message: str, built: Path, tmp_path: Path) -> None:
    _published(tmp_path, {**members(built), member: b"print('run')"})
    _refused(tmp_path, message)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_special_files_are_refused(kind: int, built: Path, tmp_path: Path) -> None:
    def change(member: zipfile.ZipInfo) -> None:
        member.create_system = 3
        member.external_attr = (kind | 0o777) << 16

    _published(tmp_path, {**members(built), f"{NAME}/LICENSE": b"/etc/passwd"}, change)
    _refused(tmp_path, "link, folder or special file")


def test_a_bomb_is_refused_unopened(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_BYTES", built.stat().st_size)

    def change(member: zipfile.ZipInfo) -> None:
        member.compress_type = zipfile.ZIP_DEFLATED

    path = _published(tmp_path, {**members(built), f"{NAME}/LICENSE": bytes(contents.MAX_BYTES)}, change)
    assert path.stat().st_size < contents.MAX_BYTES
    _refused(tmp_path, "unpacks to")


def test_more_members_than_a_bundle_has_are_refused(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MAX_MEMBERS", 20)
    _published(tmp_path, members(built))
    _refused(tmp_path, "expected at most 20")


@pytest.mark.parametrize("missing", ["LICENSE", "configs/inference.json", "configs/metadata.json", "models/model.pt"])
def test_an_incomplete_bundle_is_refused(missing: str, built: Path, tmp_path: Path) -> None:
    content = members(built)
    del content[f"{NAME}/{missing}"]
    _published(tmp_path, content)
    _refused(tmp_path, missing)


def test_another_version_inside_is_refused(built: Path, tmp_path: Path) -> None:
    content = members(built)
    content[f"{NAME}/configs/metadata.json"] = b'{"version": "0.0.1"}'
    _published(tmp_path, content)
    _refused(tmp_path, "version")


def test_one_changed_byte_fails_the_checksum(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built.parent, tmp_path, dirs_exist_ok=True)
    data = bytearray(built.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / built.name).write_bytes(data)
    _refused(tmp_path, "sha1")
    # a collision of SHA-1 does not help
    info = tmp_path / registry.INFO
    entries = json.loads(info.read_text())
    entries[built.stem]["checksum"] = registry.digest(bytes(data), "sha1")
    info.write_text(json.dumps(entries))
    (tmp_path / "bundles").rmdir()
    _refused(tmp_path, "sha256")


def test_a_broken_archive_is_refused_whatever_the_registry_says(built: Path, tmp_path: Path) -> None:
    data = built.read_bytes()
    changed = bytearray(data)
    changed[data.index(b"UNet(nn.Module)")] ^= 1
    for broken in (b"", data[:1000], data[: len(data) // 2], data[:-1], bytes(changed)):
        with pytest.raises(ValueError, match="again"):
            contents.check_archive(io.BytesIO(broken), NAME, VERSION)
    path = tmp_path / built.name
    path.write_bytes(data[: len(data) // 2])
    registry.enter(path)
    _refused(tmp_path, "again")


def test_a_served_registry_cannot_name_local_files(built: Path, tmp_path: Path) -> None:
    entry = {"checksum": "0" * 40, "source": built.as_uri()}
    (tmp_path / registry.INFO).write_text(json.dumps({built.stem: entry}))
    with serving(tmp_path) as url, pytest.raises(ValueError, match="local file"):
        registry.install(NAME, url, tmp_path / "bundles")


def test_the_command_says_what_is_wrong(built: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "unet_paper.release.registry", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("verify", str(built)).returncode == 0
    install = ("install", NAME, "--source", str(built.parent), "--bundle_dir", "bundles")
    done = run(*install)
    assert (done.returncode, done.stdout) == (0, f"bundles{os.sep}{NAME}\n")
    again = run(*install)
    assert again.returncode == 1
    assert again.stderr.startswith("FileExistsError: ")

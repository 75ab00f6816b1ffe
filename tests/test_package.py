"""Wheel and sdist: what is in them, and what the package finds where it is installed."""

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import hatchling.build
import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import unet_paper
from unet_paper.app import training_report
from unet_paper.running.bundle_folder import bundle_folder

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# PyPI takes no larger file
MOST_BYTES = 100 * 2**20


# of a copy without a repository, such as an sdist
FOLDERS = ("unet_paper", "bundle", "scripts", "tests", ".ci", ".github")
NOT_PACKED = (".gitignore", ".pre-commit-config.yaml")


def _tracked() -> set[str]:
    """Files of the checkout."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    names = {file.relative_to(ROOT).as_posix() for file in files if file.is_file() and "__pycache__" not in file.parts}
    return names - {"PKG-INFO"}


def _build(kind: str, checkout: Path, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        name: str = getattr(hatchling.build, f"build_{kind}")(str(folder))
    return folder / name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which work has left its traces."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in _tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for stray in (
        "bundle/models/model.ts",
        "runs/cells/model.pt",
        "unet_paper/__pycache__/a.pyc",
        "dist/a.zip",
        "cells/a.tif",
    ):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(b"left there")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its wheel."""
    return _build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_the_package_and_the_bundle_in_it_and_nothing_else(wheel: Path) -> None:
    tracked = _tracked()
    expected = {name for name in tracked if name.startswith("unet_paper/")}
    expected |= {f"unet_paper/{name}" for name in tracked if name.startswith("bundle/")}
    assert {
        "unet_paper/bundle/configs/train.yaml",
        "unet_paper/bundle/models/model.pt",
        "unet_paper/py.typed",
    } <= expected
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    licences = {name.split(".dist-info/licenses/")[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "bundle/docs/data_license.txt"}


def test_a_wheel_is_small_enough_for_pypi(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES


def test_an_sdist_holds_the_checkout_and_makes_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    with tarfile.open(_build("sdist", checkout, tmp_path)) as content:
        content.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there - {"PKG-INFO"} | set(NOT_PACKED) == _tracked() | set(NOT_PACKED)
    again = _build("wheel", folder, tmp_path)
    ours, theirs = ({m.filename: m.CRC for m in zipfile.ZipFile(file).infolist()} for file in (wheel, again))
    assert ours == theirs


def test_an_installed_package_finds_its_configs_and_says_no_commit(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment inside somebody's repository: its commit is not the program's."""
    assert training_report.checkout_commit() is None or re.fullmatch(
        "[0-9a-f]{40}", training_report.checkout_commit() or ""
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    site = tmp_path / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.setattr(unet_paper, "__file__", str(site / "unet_paper" / "__init__.py"))
    assert bundle_folder() == site / "unet_paper" / "bundle"
    assert (bundle_folder() / "models" / "model.pt").is_file()
    assert training_report.checkout_commit() is None


def test_a_checkout_without_git_says_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "unet_paper").mkdir()
    monkeypatch.setattr(unet_paper, "__file__", str(tmp_path / "unet_paper" / "__init__.py"))
    monkeypatch.setenv("PATH", "")
    assert training_report.checkout_commit() is None


def test_the_container_is_built_from_files_that_are_there_and_make_the_wheel(checkout: Path, tmp_path: Path) -> None:
    """As far as it goes without Docker: what is copied, and that the package can be built of it."""
    steps = re.findall(r"^([A-Z]+) (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    context = tmp_path / "build"
    context.mkdir()
    for words in (arguments.split() for step, arguments in steps if step == "COPY"):
        *sources, target = words
        for source in map(checkout.__truediv__, sources):
            if source.is_dir():
                shutil.copytree(source, context / target)
            else:
                shutil.copyfile(source, context / target / source.name)
    names = set(zipfile.ZipFile(_build("wheel", context, tmp_path)).namelist())
    assert {"unet_paper/bundle/configs/train.yaml", "unet_paper/bundle/models/model.pt"} <= names
    ((_, run),) = (step for step in steps if step[0] == "RUN")
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", run)
    assert set(extras.split(",")) <= set(EXTRAS)
    assert (context / re.findall(r"--constraint (\S+)", run)[0]).is_file()
    assert dict(steps)["ENTRYPOINT"] == json.dumps(list(PROJECT["scripts"]))
    assert dict(steps)["FROM"].startswith(f"python:{PROJECT['requires-python'].removeprefix('>=')}")


def test_the_workflow_does_no_more_than_call_make() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = workflow["jobs"]
    called = {name: [step["run"].split() for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert [words[1] for words in called["test"]] == ["test"]
    assert [words[1] for words in called["publish"]] == ["publish", "github-release"]
    for make, target, *_ in (words for listed in called.values() for words in listed):
        assert make == "make"
        assert target in targets
    assert jobs["publish"]["needs"] == "test"
    assert jobs["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    # only the job that publishes may write
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in jobs["test"]


def test_nothing_is_published_but_a_tag_of_this_version(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "unet_paper").mkdir()
    (tmp_path / "unet_paper" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "release"], check=True)

    def tagged() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", "-C", str(tmp_path), "tagged"], capture_output=True, text=True, timeout=60)

    assert "publish what is tagged v1.2.3" in tagged().stdout
    subprocess.run([*git, "tag", "v1.2.2"], check=True)
    assert tagged().returncode != 0
    subprocess.run([*git, "tag", "--delete", "v1.2.2"], check=True, capture_output=True)
    subprocess.run([*git, "tag", "v1.2.3"], check=True)
    assert tagged().returncode == 0


def _pins(file: str) -> dict[str, Version]:
    lines = [line.split("==") for line in (ROOT / file).read_text().split() if "==" in line]
    return {canonicalize_name(name): Version(version) for name, version in lines}


def _requirements(*extras: str) -> list[Requirement]:
    found = [Requirement(text) for extra in extras for text in EXTRAS[extra]]
    return [requirement for requirement in found if canonicalize_name(requirement.name) != "unet-paper"]


def test_libraries_have_ranges_and_what_we_pin_lies_in_them() -> None:
    pins = _pins("constraints.txt")
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    assert len(needed) > 15
    for requirement in [
        *needed,
        *_requirements("onnx", "dask", "openvino", "tracking", "hub", "release", "test", "benchmark"),
    ]:
        assert not any(part.operator in ("==", "===", "~=") for part in requirement.specifier), requirement
        if requirement.name != "types-PyYAML":
            assert any(part.operator == ">=" for part in requirement.specifier), requirement
        # itk is a family of packages under one name
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_what_monai_label_needs_is_what_its_environment_has() -> None:
    pins = _pins("constraints-label.txt")
    for requirement in _requirements("label"):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_every_extra_that_a_page_or_an_error_names_exists() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "bundle").rglob("*.md"), *(ROOT / "unet_paper").rglob("*.py")]
    named = {
        extra
        for page in pages
        for listed in re.findall(r"(?:unet_paper|[\"\s]\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8"))
        for extra in listed.split(",")
    }
    assert {"onnx", "openvino", "dask", "bioimageio", "label"} <= named
    assert named <= set(EXTRAS)

"""The import rule: which part of the package may import which, and which may read YAML."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

PACKAGE = "unet_paper"
# What each part may import besides itself: geometry <- nouns <- data, metrics <- running <- large, release <- app.
# Two on one step of the stair, data and metrics, large and release, know nothing of each other.
BELOW: dict[str, set[str]] = {"geometry": set(), "nouns": {"geometry"}}
BELOW["data"] = BELOW["metrics"] = {"geometry", "nouns"}
BELOW["running"] = {"geometry", "nouns", "data", "metrics"}
BELOW["large"] = BELOW["release"] = {*BELOW["running"], "running"}
BELOW["app"] = {*BELOW["running"], "running", "large", "release"}
# the package itself: the face offers nouns, and the app's Segmenter; its version and place are for those above the
# paper to read
BELOW["face"] = {"geometry", "nouns", "app"}
READ_THE_FACE = {"running", "large", "release", "app"}
YAML = ("yaml", "ruamel", "ruamel_yaml", "monai.bundle")
YAML_READERS = ("running.settings", "running.unused_settings", "release", "app")


class Import(NamedTuple):
    """An import statement, or a call of ``importlib.import_module``: where it stands, and a module that it loads."""

    file: Path
    line: int
    module: str


def imports(folder: Path) -> Iterator[Import]:
    """Every import of a package's files: at the top, inside functions, relative or by a literal name."""
    for file in sorted(folder.rglob("*.py")):
        package = (folder.name, *file.relative_to(folder).parent.parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
                base = base if node.level else str(node.module)
                for alias in node.names:
                    # a module of the package, or a name within one
                    inner = folder.joinpath(*base.split(".")[1:], alias.name)
                    is_module = base.split(".")[0] == folder.name and (
                        inner.is_dir() or inner.with_suffix(".py").is_file()
                    )
                    yield Import(file, node.lineno, f"{base}.{alias.name}" if is_module else base)
                    if base == "monai":
                        yield Import(file, node.lineno, f"monai.{alias.name}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node) == "monai.bundle":
                yield Import(file, node.lineno, "monai.bundle")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "import_module",
                "__import__",
            ):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield Import(file, node.lineno, first.value)


def part(name: str) -> str:
    """Part of the house that a module such as ``unet_paper.data.reader`` belongs to."""
    _, *rest = name.split(".")
    if not rest:
        return "face"
    if rest[0] == "geometry":
        return "geometry"
    if rest[0] == "__main__":  # the command
        return "app"
    return rest[0] if rest[0] in BELOW else "nouns"


def violations(folder: Path) -> list[str]:
    """Imports against the rule, each with file and line."""
    found = []
    for file, line, module in imports(folder):
        name = ".".join((folder.name, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        importer = part(name)
        if module.split(".")[0] == folder.name:
            imported = part(module)
            allowed = BELOW[importer] | {importer} | ({"face"} if importer in READ_THE_FACE else set())
            if imported not in allowed or (imported == importer == "face"):
                found.append(
                    f"{file}:{line}: {importer} imports {module}, of {imported}; it may import {sorted(allowed)}"
                )
        inside = name.removeprefix(f"{folder.name}.")
        reader = any(inside == allowed or inside.startswith(f"{allowed}.") for allowed in YAML_READERS)
        if not reader and any(module == one or module.startswith(f"{one}.") for one in YAML):
            found.append(f"{file}:{line}: {name} imports {module}; YAML is read by {', '.join(YAML_READERS)} alone")
    return found


def test_imports_point_one_way_and_yaml_is_read_at_the_top() -> None:
    assert violations(ROOT / PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("geometry.py", "from unet_paper.network import UNet", "geometry imports unet_paper.network, of nouns"),
        ("geometry.py", "from . import loss", "geometry imports unet_paper.loss, of nouns"),
        ("loss.py", "import unet_paper.data.reader", "nouns imports unet_paper.data.reader, of data"),
        ("loss.py", "from unet_paper import metrics", "nouns imports unet_paper.metrics, of metrics"),
        ("loss.py", "from unet_paper import UNet", "nouns imports unet_paper, of face"),
        ("metrics/iou.py", "from ..data import reader", "metrics imports unet_paper.data.reader, of data"),
        ("metrics/iou.py", "from unet_paper import running as r", "metrics imports unet_paper.running, of running"),
        ("data/reader.py", "from unet_paper.metrics.iou import iou", "data imports unet_paper.metrics.iou, of metrics"),
        ("running/engines.py", "import unet_paper.release", "running imports unet_paper.release, of release"),
        ("release/archive.py", "from ..app import main", "release imports unet_paper.app, of app"),
        ("release/archive.py", "import unet_paper.large.blocks", "release imports unet_paper.large.blocks, of large"),
        ("__init__.py", "from unet_paper.data import reader", "face imports unet_paper.data.reader, of data"),
        (
            "loss.py",
            "importlib.import_module('unet_paper.running.engines')",
            "nouns imports unet_paper.running.engines",
        ),
        ("running/engines.py", "import yaml", "unet_paper.running.engines imports yaml"),
        ("data/reader.py", "from monai import bundle", "unet_paper.data.reader imports monai.bundle"),
        ("data/reader.py", "monai.bundle.ConfigParser()", "unet_paper.data.reader imports monai.bundle"),
        ("metrics/iou.py", "from monai.bundle import ConfigParser", "unet_paper.metrics.iou imports monai.bundle"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_planted_violation_is_found_with_file_and_line(
    tmp_path: Path, file: str, line: str, said: str, lazy: bool
) -> None:
    package = tmp_path / PACKAGE
    for name in ("geometry", "loss", "network", "metrics/iou", "data/reader", "running/engines", "release/archive"):
        (package / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text('"""Empty."""\n')
    assert violations(package) == []
    (package / file).write_text(f"\n\ndef later():\n    {line}\n" if lazy else f"\n\n\n{line}\n")
    (found,) = violations(package)
    assert found.startswith(f"{package / file}:4: ")
    assert said in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("loss.py", "from unet_paper import geometry"),
        ("loss.py", "from .geometry import margin"),
        ("metrics/iou.py", "from unet_paper.loss import Loss"),
        ("running/settings.py", "import yaml, unet_paper"),
        ("release/archive.py", "from monai.bundle import ConfigParser"),
        ("app/main.py", "from unet_paper import data, large, metrics, release, running"),
    ],
)
def test_what_the_rule_allows_is_not_found(tmp_path: Path, file: str, line: str) -> None:
    package = tmp_path / PACKAGE
    for wing in ("data", "large", "metrics", "running", "release", "app"):
        (package / wing).mkdir(parents=True)
    (package / "geometry.py").write_text("")
    (package / file).write_text(line)
    assert violations(package) == []


def test_every_folder_of_the_package_says_what_belongs_there() -> None:
    """And is a package, as tools that look for packages expect."""
    for folder in {file.parent for file in (ROOT / PACKAGE).rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder

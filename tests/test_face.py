"""What ``import unet_paper`` offers, what it costs, and the version that everything else is held to."""

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT

import unet_paper

OFFERED = {
    "LabelInstancesd",
    "MagnifiedInferer",
    "OverlapTileInferer",
    "PixelWeightedCrossEntropy",
    "RandElasticDeformation",
    "RandElasticDeformationd",
    "RandGreyValues",
    "RandGreyValuesd",
    "RandPasteCells",
    "RandPasteCellsd",
    "RowStream",
    "Segmenter",
    "UNet",
    "WeightMap",
    "WeightMapd",
    "cell_table",
    "label_instances",
    "separation_border",
}


def test_all_is_what_a_person_uses_and_every_name_is_the_module_s_own() -> None:
    assert set(unet_paper.__all__) == OFFERED
    assert len(unet_paper.__all__) == len(OFFERED)
    for name in unet_paper.__all__:
        found = getattr(unet_paper, name)
        assert found.__name__ == name
        assert found is getattr(importlib.import_module(found.__module__), name)
        assert name in dir(unet_paper)


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    tree = ast.parse(Path(unet_paper.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: getattr(unet_paper, name).__module__ for name in unet_paper.__all__}


def test_the_module_weight_map_is_not_hidden_by_its_function() -> None:
    module = importlib.import_module("unet_paper.weight_map")
    assert unet_paper.weight_map is module


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'unet_paper' has no attribute 'Unet'"):
        unet_paper.Unet  # noqa: B018


def test_import_loads_nothing_until_a_name_is_used() -> None:
    heavy = ("torch", "monai", "numpy", "scipy", "numba", "yaml")
    check = (
        "import sys, unet_paper; dir(unet_paper); "
        f"print([name for name in {heavy!r} if name in sys.modules], "
        "[name for name in sys.modules if name.startswith('unet_paper.')])"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[] []"


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"] == {"path": "unet_paper/__init__.py"}
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert metadata["version"] == unet_paper.__version__
    assert metadata["changelog"][unet_paper.__version__]
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f'version: "{unet_paper.__version__}"' in citation
    assert f"\n## {unet_paper.__version__}" in (ROOT / "CHANGELOG.md").read_text()

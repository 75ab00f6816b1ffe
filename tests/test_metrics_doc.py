"""bundle/docs/metrics.md: its numbers are those that the metrics give, and its sentences hold for them."""

import importlib.util
import re
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

DOCS = ROOT / "bundle" / "docs"


@pytest.fixture(scope="module")
def document() -> ModuleType:
    """scripts/write_metrics_doc.py as a module."""
    spec = importlib.util.spec_from_file_location("write_metrics_doc", ROOT / "scripts" / "write_metrics_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_metrics_say(document: ModuleType) -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert page == document.page(), "run scripts/write_metrics_doc.py"
    pictures = re.findall(r"\]\((.*\.png)\)", page)
    assert len(pictures) == 2
    for picture in pictures:
        assert np.asarray(Image.open(DOCS / picture)).std() > 0


def test_what_the_page_says_of_membranes_holds(document: ModuleType) -> None:
    label = document.em_label()
    scores = {
        change: {name: score(probability, label) for name, score in document.EM_SCORES.items()}
        for change, probability in document.em_changes(label).items()
    }
    perfect = {"warping error": 0, "pixel error": 0, "Rand error": 0, "V_rand": 1, "V_info": 1}
    assert scores["the label itself"] == pytest.approx(perfect, abs=1e-12)
    assert scores["less contrast, 0.3 and 0.7"] == pytest.approx(perfect, abs=1e-12)
    moved, gap = scores["everything shifted by 1 px"], scores["a gap of 1 px in one membrane"]
    assert moved["pixel error"] > gap["pixel error"]
    assert moved["Rand error"] > gap["Rand error"]
    free = ("warping error", "V_rand", "V_info")
    assert [moved[name] for name in free] == pytest.approx([perfect[name] for name in free], abs=1e-12)
    assert gap["warping error"] == pytest.approx(1 / label.size)
    assert gap["V_rand"] < 1
    assert scores["a hole of 3 x 3 px in one cell"]["V_rand"] == pytest.approx(1)
    for change in ("a hole of 3 x 3 px in one cell", "one cell lost"):
        assert scores[change]["warping error"] == 0
        assert scores[change]["pixel error"] > 0


def test_what_the_page_says_of_cells_holds(document: ModuleType) -> None:
    reference = document.cells_reference()
    cells = len(np.unique(reference)) - 1
    scores = {
        change: {name: score(prediction, reference) for name, score in document.CELL_SCORES.items()}
        for change, prediction in document.cells_changes(reference).items()
    }
    merged = scores["two touching cells merged"]
    assert merged["IoU"] == 1
    assert merged["SEG"] == pytest.approx(1 - 1 / cells)
    assert merged["DET"] == pytest.approx(1 - 0.5 / cells)
    assert scores["one cell lost"]["SEG"] == pytest.approx(1 - 1 / cells)
    assert scores["one false cell"]["SEG"] == 1
    assert scores["one false cell"]["DET"] == pytest.approx(1 - 0.1 / cells)
    assert scores["everything shifted by 4 px"]["DET"] == 1
    assert scores["everything shifted by 4 px"]["SEG"] < scores["everything shifted by 1 px"]["SEG"] < 1

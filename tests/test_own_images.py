"""The tutorial bundle/docs/own_images.md: its lines, typed on a small phantom, do what it says; pages in a browser."""

import csv
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tifffile
from conftest import ROOT, TINY

from unet_paper.app import check
from unet_paper.data.reader import LabelReader
from unet_paper.running import facts

PAGE = (ROOT / "bundle" / "docs" / "own_images.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tutorial() -> Any:
    """scripts/walk_own_images.py as a module."""
    spec = importlib.util.spec_from_file_location("walk_own_images", ROOT / "scripts" / "walk_own_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def walked(tutorial: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's lines were typed, with a tiny network."""
    folder = tmp_path_factory.mktemp("own")
    told = {
        **{name: TINY[name] for name in ("features", "tile_size", "max_epochs", "steps_per_epoch")},
        "device": "cpu",
    }
    quiet = ["--logging_file", "False"]
    tiny = [word for name, value in told.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(check, "seconds_per_step", lambda *_: 1.0)
        tutorial.prepare(folder, 96)
        tutorial.walk(tutorial.lines(PAGE), {"train": [*tiny, *quiet], "predict": ["--device", "cpu", *quiet]})
    return folder


def test_what_the_page_names_is_there(walked: Path) -> None:
    named = re.findall(r"`(runs/[\w./]+|\w+_(?:rois\.zip|cells\.tif)|\w+\.geojson|summary\.csv|cells\.csv)`", PAGE)
    assert len(named) > 8
    predictions = walked / "runs" / "predictions" / "new_images"
    for name in set(named):
        place = walked if name.startswith("runs/") else predictions
        assert (place / name).exists() or next(predictions.glob(f"*{name}"), None), name


def test_corrections_are_trained_on(walked: Path) -> None:
    """Two images more than before; ROIs that were saved as they were give the label image that they came from."""
    before, after = (facts.read(walked / "runs" / run / "model.pt")["training"] for run in ("cells.1", "cells"))
    count = [sum(run["images"][part] for part in ("training", "validation")) for run in (before, after)]
    assert count == [12, 14]
    with (walked / "runs" / "checks" / "cells" / "pairs.csv").open(newline="") as table:
        masks = {Path(row["image"]).stem: Path(row["mask"]) for row in csv.DictReader(table)}
    assert masks["nuclei13"] == walked.resolve() / "cells" / "masks" / "nuclei13.tif"
    rois = LabelReader().get_data(masks["nuclei14"])[0]
    assert rois.shape == tifffile.imread(walked / "new_images" / "nuclei14.tif").shape


def test_the_scale_goes_from_the_images_to_the_tables(walked: Path) -> None:
    assert facts.read(walked / "runs" / "cells" / "model.pt")["pixel_size"] == 0.5
    with (walked / "runs" / "predictions" / "new_images" / "summary.csv").open(newline="") as table:
        assert {row["pixel_width_um"] for row in csv.DictReader(table)} == {"0.5"}


def test_its_pictures_are_small_and_made_by_its_script(walked: Path, tutorial: Any, tmp_path: Path) -> None:
    tutorial.draw(walked, tmp_path)
    named = re.findall(r"\(figures/(own_images_\w+\.png)\)", PAGE)
    assert {path.name for path in tmp_path.iterdir()} == set(named)
    assert all((ROOT / "bundle" / "docs" / "figures" / name).stat().st_size < 2**18 for name in named)


# --- in a browser ---

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
PAGES = {
    "check": "runs/checks/cells/check.html",
    "report": "runs/cells/report.html",
    "predictions": "runs/predictions/new_images/predictions.html",
}
# what a person does, and what is then to be seen
_CLICKS = """
<script>{
const seen = {complaints: window.complaints, pictures: [...document.images].map(i => i.complete && i.naturalWidth > 0)};
const heads = [...document.querySelectorAll("th")], column = heads.findIndex(h => h.textContent === "cells");
if (column >= 0 && document.querySelector("tbody tr[data-k]")) {
  const cells = () => [...document.querySelector("tbody").rows].map(r => Number(r.cells[column].dataset.v));
  const shown = () => [...document.querySelectorAll("figure")].map(f => getComputedStyle(f).display !== "none");
  seen.first = shown();
  heads[column].click(); seen.down = cells();
  heads[column].click(); seen.up = cells();
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"})); seen.next = shown();
}
document.body.dataset.seen = JSON.stringify(seen);
}</script></body></html>"""
_COMPLAINTS = """<script>window.complaints = [];
window.addEventListener("error", e => window.complaints.push(String(e.message)));
document.addEventListener("securitypolicyviolation", e => window.complaints.push(e.violatedDirective));</script>"""


def in_browser(page: Path, folder: Path) -> dict[str, Any]:
    """What a page shows after some clicks, in headless Chromium."""
    text = page.read_text(encoding="utf-8").replace("</body></html>", _CLICKS)
    # after the page's own policy, which the script is under too
    text = text.replace("<title>", _COMPLAINTS + "<title>", 1)
    copy = folder / page.name
    copy.write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    run = subprocess.run([CHROMIUM, *options, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-seen="([^"]*)"', run.stdout)
    assert found is not None, run.stderr
    return dict(json.loads(found[1].replace("&quot;", '"')))


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: the HTML pages are not opened")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_in_a_browser(name: str, walked: Path, tmp_path: Path) -> None:
    seen = in_browser(walked / PAGES[name], tmp_path)
    assert seen["complaints"] == []
    assert seen["pictures"]
    assert all(seen["pictures"])
    if name == "predictions":
        assert sum(seen["first"]) == sum(seen["next"]) == 1
        assert seen["first"] != seen["next"]
        assert seen["down"] == sorted(seen["down"], reverse=True)
        assert seen["up"] == sorted(seen["down"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_from_the_net(name: str, walked: Path) -> None:
    text = (walked / PAGES[name]).read_text(encoding="utf-8")
    addresses = re.findall(r"""\b(?:src|href)=["']?([^"'\s>]*)""", text)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in text

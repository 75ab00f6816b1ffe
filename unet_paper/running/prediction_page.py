"""``predictions.html``: one page for a folder of predictions, which needs nothing but a browser."""

import base64
import html
import io
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import unet_paper
from unet_paper.data.unlike_training import UNLIKE

Row = Mapping[str, Any]

# px along a picture's longer side
_SIDE = 900
_LEFT = ("image", "page", "cells", "doubt", UNLIKE)
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #fff; }
header { padding: 1em 1.5em 0; } h1 { font-size: 1.3em; margin: 0 0 .3em; } p { margin: .3em 0; max-width: 60em; }
main { display: flex; gap: 1.5em; padding: 1em 1.5em; align-items: flex-start; }
#list { flex: 0 1 auto; max-width: 55%; max-height: 82vh; overflow: auto; border: 1px solid #ccc; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #eee; cursor: pointer; user-select: none; vertical-align: bottom; }
th, td { padding: .25em .7em; text-align: right; } th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
tbody tr { cursor: pointer; } tbody tr:nth-child(even) { background: #f7f7f7; }
tbody tr.unlike { background: #fde0dc; }
tbody tr.shown { background: #ffe9a8; } th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
#pictures { flex: 1 1 30em; position: sticky; top: 1em; } figure { margin: 0; }
figure img { width: 100%; max-height: 75vh; object-fit: contain; object-position: left top; }
.js figure { display: none; } .js figure.shown { display: block; } #none { color: #777; }
"""
_SCRIPT = """
"use strict";
document.documentElement.classList.add("js");
const body = document.querySelector("tbody"), heads = [...document.querySelectorAll("th")];
const rows = () => [...body.rows];
function show(row) {
  document.querySelectorAll(".shown").forEach(e => e.classList.remove("shown"));
  if (!row) return;
  row.classList.add("shown");
  row.scrollIntoView({ block: "nearest" });
  (document.getElementById("p" + row.dataset.k) || document.getElementById("none")).classList.add("shown");
}
function step(by) {
  const all = rows(), now = all.findIndex(r => r.classList.contains("shown"));
  show(all[Math.min(Math.max(now + by, 0), all.length - 1)]);
}
function sortBy(k) {
  const up = heads[k].getAttribute("aria-sort") === "descending";
  heads.forEach(h => h.removeAttribute("aria-sort"));
  heads[k].setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = r => r.cells[k].dataset.v;
  const all = rows(), known = all.filter(r => value(r) !== ""), rest = all.filter(r => value(r) === "");
  const text = k === 0 || known.some(r => isNaN(value(r)));
  const compare = (a, b) => text ? value(a).localeCompare(value(b), undefined, { numeric: true }) : value(a) - value(b);
  known.sort((a, b) => up ? compare(a, b) : compare(b, a));
  body.append(...known, ...rest);
}
heads.forEach((h, k) => h.addEventListener("click", () => sortBy(k)));
body.addEventListener("click", e => show(e.target.closest("tr")));
document.addEventListener("keydown", e => {
  const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[e.key];
  if (by) { e.preventDefault(); step(by); }
});
show(rows()[0]);
"""
# nothing is fetched, whatever a file is called
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_HEAD = string.Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="$generator">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title><style>$style</style></head>
<body><header><h1>$title</h1>
$paragraphs
</header><main><div id="list"><table><thead><tr>$columns</tr></thead><tbody>
""")


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Rows of images unlike the training, of which a network may be wrong and sure; then by its doubt, highest first.

    Those of which it is not known come last.
    """
    return sorted(
        rows, key=lambda row: (not row.get(UNLIKE), row.get("doubt", "") == "", -float(row.get("doubt") or 0))
    )


def prediction_page(
    rows: Sequence[Row], pictures: Iterable[NDArray[np.uint8] | None], *, weights: Path, trust: str
) -> Iterator[str]:
    """The page, part by part: a table that sorts, and pictures to go through with the arrow keys.

    Args:
        rows: of the summary, in the order of the page.
        pictures: RGB images (H, W, 3) of the first of the rows, one each, or None.
        weights: what predicted.
        trust: what is known of how doubt and error go together, a sentence.

    Yields:
        HTML.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["image"]
    names = [name for name in names if any(row.get(name, "") != "" for row in rows)] or names
    # what one looks for stands left, whatever the width of the window
    names.sort(key=lambda name: _LEFT.index(name) if name in _LEFT else len(_LEFT))
    counted = sum(int(row["cells"]) for row in rows)
    strangers = sum(bool(row.get(UNLIKE)) for row in rows)
    paragraphs = [
        f"{counted} cells in {len(rows)} images, found by {weights}.",
        *([_strangers(strangers)] if strangers else []),
        f"The image that the network doubts most comes {'next' if strangers else 'first'}. Doubt: pixels that it "
        "expects to get wrong for each pixel "
        f"of cell, by its own probabilities. {trust}",
        "A click on a column sorts by it; a click on a row, or the arrow keys, show its picture.",
    ]
    yield _HEAD.substitute(
        generator=f"unet_paper {unet_paper.__version__}",
        policy=_POLICY,
        style=_STYLE,
        title=f"{counted} cells in {len(rows)} images",
        paragraphs="\n".join(f"<p>{html.escape(text)}</p>" for text in paragraphs),
        columns="".join(f"<th{_sorted(name)}>{html.escape(name.replace('_', ' '))}</th>" for name in names),
    )
    for number, row in enumerate(rows):
        cells = "".join(_cell(row.get(name, "")) for name in names)
        stranger = ' class="unlike"' if row.get(UNLIKE) else ""
        yield f'<tr data-k="{number}"{stranger}>{cells}</tr>\n'
    yield '</tbody></table></div><div id="pictures">\n'
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=False)):
        if picture is not None:
            yield _figure(number, row, picture)
    yield '<figure id="none">no picture of this image here: it is one of those that the network doubts least</figure>\n'
    yield f"</div></main><script>{_SCRIPT}</script></body></html>\n"


def _strangers(count: int) -> str:
    counted = "1 image has" if count == 1 else f"{count} images have"
    return (
        f"{counted} grey values unlike those of the training images, first in the table: there the network may be "
        "wrong and sure of it. The column unlike training says in what. Look at each: another bit depth "
        "(--grey_maximum), a negative, another microscope?"
    )


def _sorted(name: str) -> str:
    return ' aria-sort="descending"' if name == "doubt" else ""


def _cell(value: Any) -> str:
    text = html.escape(str(value))
    if isinstance(value, float):
        return (
            f'<td data-v="{text}">{value:.0f}</td>' if abs(value) >= 1000 else f'<td data-v="{text}">{value:.4g}</td>'
        )
    return f'<td data-v="{text}">{text}</td>'


def _figure(number: int, row: Row, picture: NDArray[np.uint8]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, "jpeg", quality=85)
    page = f", page {row['page']}" if row.get("page", "") != "" else ""
    caption = html.escape(f"{row['image']}{page}: {row['cells']} cells")
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure id="p{number}"><img alt="{caption}" src="data:image/jpeg;base64,{data}"><p>{caption}</p></figure>\n'
    )

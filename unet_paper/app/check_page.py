"""The page of ``unet-paper check``: pictures, plots, findings and the configuration, in one file without the net."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from unet_paper.app.configuration import Configuration
from unet_paper.data.annotation import OPEN, UNKNOWN
from unet_paper.data.channels import Channel
from unet_paper.data.finding import Finding, shown
from unet_paper.data.findings import case_of
from unet_paper.data.survey import ImageFacts, Survey, load_case
from unet_paper.weight_map import separation_border, weight_map

THUMBNAILS = 60
_MASKS = {
    "binary": "one value for all cells",
    "instances": "an id for each cell",
    "either": "an id for each cell, or one value for all",
    "classes": "a value for each kind of cells",
}
_WIDTH = 220

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
.finding{background:#fff4e0;border-left:4px solid #d98200;padding:.5rem .8rem;margin:.6rem 0}
.fine{background:#e9f6ec;border-left:4px solid #2e8b57;padding:.5rem .8rem}
.grid{display:flex;flex-wrap:wrap;gap:10px}figure{margin:0;width:220px}figcaption{font-size:12px;color:#555;
overflow-wrap:anywhere}img{max-width:100%}code{background:#f3f3f3;padding:0 .2rem}.why{color:#555}
pre{white-space:pre-wrap}pre,td{overflow-wrap:anywhere}"""


def page(
    found: Survey,
    findings: Sequence[Finding],
    configuration: Configuration,
    folder: str,
    channel: Channel | None = None,
) -> str:
    """The page as HTML, pictures included.

    Args:
        found: the survey.
        findings: what looks wrong.
        configuration: what was chosen.
        folder: that was looked at, for the title.
        channel: that is taken from images with several.
    """
    parts = [
        f"<h1>{escape(folder)}: {len(found.images)} images, {found.cells} cells</h1>",
        "<h2>What looks wrong</h2>",
        *map(_finding, findings),
        "" if findings else '<p class="fine">Nothing: masks lie on their images, none is there twice.</p>',
        "<h2>What there is</h2>",
        _table(_facts(found)),
        _plots(found),
        "<h2>Settings for it</h2>",
        "<p>Written to <code>config.yaml</code> beside this page, which <code>unet-paper train</code> uses.</p>",
        _settings(configuration),
        "<h2>Images with their cells outlined</h2>",
        *_pictures(found, findings, channel),
    ]
    return document(f"Check of {folder}", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole HTML file of parts."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    begin = f"<!doctype html>\n<html lang=en><head>{head}<style>{STYLE}</style></head><body>"
    return "\n".join([begin, *parts, "</body></html>", ""])


def embedded(pixels: NDArray[np.uint8]) -> str:
    """An image as the address of itself."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def embedded_figure(figure: Figure) -> str:
    """A plot as an ``img`` element."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def outlined(image: NDArray[Any], cells: NDArray[Any], width: int = _WIDTH) -> NDArray[np.uint8]:
    """An image, (C, H, W), stretched to its own range, its cells outlined in yellow, about ``width`` px wide.

    Three channels are shown as red, green and blue, any other number as their mean. What is unknown is dark. Where
    cells are points, what is known for background is blue.
    """
    channels = np.moveaxis(image.astype(np.float32), 0, -1)
    seen = channels if channels.shape[2] == 3 else channels.mean(axis=2, keepdims=True)
    low, high = np.percentile(seen, (0.5, 99.8))
    shown = np.clip((seen - low) / max(high - low, 1e-9), 0, 1)
    factor = max(1, round(seen.shape[1] / width))
    rgb = np.broadcast_to((shown[::factor, ::factor] * 255).astype(np.uint8), (*shown[::factor, ::factor, 0].shape, 3))
    rgb = rgb.copy()
    cells = cells[::factor, ::factor]
    if (cells == OPEN).any():
        rgb[cells == 0] = (60, 140, 255)
    rim = find_boundaries(np.maximum(cells, 0), mode="inner")
    rgb[rim] = (255, 210, 0)
    rgb[cells == UNKNOWN] //= 2
    return rgb


def _finding(finding: Finding) -> str:
    where = f"<br><small>{escape(shown(finding.files, 6))}</small>" if finding.files else ""
    said = f"<b>{escape(finding.kind)}</b>: {escape(finding.what)}; {escape(finding.remedy)}.{where}"
    return f'<div class="finding">{said}</div>'


def _facts(found: Survey) -> Mapping[str, str]:
    images = found.images
    heights, widths = zip(*(image.shape for image in images), strict=True)
    counts = [len(image.areas) for image in images]
    sizes = sorted({image.pixel_size for image in images if image.pixel_size})
    largest = max(image.largest for image in images)
    return {
        "size": f"{_range(heights)} x {_range(widths)} px (height x width)",
        "type": ", ".join(sorted({image.dtype for image in images})),
        "channels": ", ".join(map(str, sorted({image.channels for image in images}))),
        "grey values": f"{min(image.low for image in images):g} to {largest:g}"
        + ("" if any("float" in image.dtype for image in images) else f", {int(largest).bit_length()} bits used"),
        "pixel size": ", ".join(f"{size[0]:g} x {size[1]:g} um" for size in sizes) or "not in the files",
        "masks": _annotated(found),
        "cells an image": f"{min(counts)} to {max(counts)}, half of the images have at most {np.median(counts):g}",
        "diameter": f"{found.diameter(50):.0f} px; nine of ten between {found.diameter(5):.0f} and "
        f"{found.diameter(95):.0f} px"
        if found.sizes_known
        else f"not known; the closest tenth of the points are less than {found.diameter(50):.0f} px apart",
        "touching another": f"{found.touching} cells",
        "covered by cells": f"{found.foreground:.1%}" + (" of what is known" if found.annotation == "points" else ""),
        "unknown": f"{np.mean([image.unknown for image in images]):.1%} of the pixels"
        + (f", value {found.ignore_value} of the masks" if found.ignore_value is not None else ""),
    }


def _annotated(found: Survey) -> str:
    if found.annotation == "points":
        pointed = sum(image.pointed for image in found.images)
        return (
            f"annotated by points: {pointed} of {len(found.images)} images. There the yellow discs are cells, the blue "
            "lines half way between points, and discs around points of background, are background; all else is open, "
            "and teaches nothing. Every cell must have its point: a line through a cell without one teaches it wrongly"
        )
    return _MASKS[found.annotation]


def _range(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items()]
    return "<table>" + "".join(lines) + "</table>"


def _settings(configuration: Configuration) -> str:
    rows = [
        f"<tr><td><code>{escape(choice.setting)}: {escape(_short(choice.value))}</code></td>"
        f'<td class="why">{escape(choice.why)}</td></tr>'
        for choice in configuration.choices
    ]
    return "<table>" + "".join(rows) + "</table>"


def _short(value: Any) -> str:
    return "listed in pairs.csv" if isinstance(value, Mapping) else str(value)


def _plots(found: Survey) -> str:
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    sizes, counts, greys = figure.subplots(1, 3)
    sizes.hist(found.diameters, bins=30, color="#4477aa")
    sizes.set_xlabel("diameter of a cell, px")
    counts.hist([len(image.areas) for image in found.images], bins=20, color="#4477aa")
    counts.set_xlabel("cells in an image")
    for number, image in enumerate(found.images):
        greys.plot([number, number], [image.low, image.high], color="#4477aa", lw=1)
        greys.plot(number, image.median, "k.", ms=2)
    greys.set_xlabel("image")
    greys.set_ylabel("grey values (99.8 %)")
    return embedded_figure(figure)


def _pictures(found: Survey, findings: Sequence[Finding], channel: Channel | None) -> list[str]:
    """Images, those with findings first, and the weight map of the one with most cells that touch."""
    transform = found.transform
    suspicious = {file for finding in findings for file in finding.files}
    order = sorted(found.images, key=lambda image: not ({image.image, image.label} & suspicious))
    parts = ['<div class="grid">']
    several = len({Path(image.image).name for image in found.images}) < len(found.images)
    for image in order[:THUMBNAILS]:
        loaded = load_case(case_of(image), transform, channel)
        parts.append(_figure(embedded(outlined(loaded.pixels, loaded.cells)), _caption(image, several)))
    parts.append("</div>")
    if len(order) > THUMBNAILS:
        parts.append(f"<p>{len(order) - THUMBNAILS} more images are not shown.</p>")
    hardest = max(found.images, key=lambda image: image.touching)
    cells = load_case(case_of(hardest), transform, channel).cells
    weights = weight_map(separation_border(cells), class_weights=(1.0, 1.0))
    shown = (np.clip(weights / max(float(np.percentile(weights, 99.9)), 1.0), 0, 1) * 255).astype(np.uint8)
    step = max(1, shown.shape[1] // 440)
    parts += [
        "<h2>Weight map of the image with most cells that touch</h2>",
        "<p>Bright is where a mistake costs most: between cells.</p>",
        _figure(embedded(np.ascontiguousarray(shown[::step, ::step])), Path(hardest.image).name),
    ]
    return parts


def _caption(image: ImageFacts, several: bool) -> str:
    """By its name, or, where several have one, the end of its path."""
    return f"{'/'.join(Path(image.image).parts[-3 if several else -1 :])}: {len(image.areas)} cells"


def _figure(source: str, caption: str) -> str:
    return f'<figure><img alt="" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'

"""Pictures a person can judge a run by: one row a case, every cell in its own colour, and the curves of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import unet_paper
from unet_paper.data.reader import extension, split_page
from unet_paper.data.written_by_us import SOFTWARE
from unet_paper.running import engines
from unet_paper.running.placement import placed

Array = NDArray[Any]
_CAPTIONS = {
    "image": "image",
    "label": "label and reference cells",
    "weight": "weight map",
    "pred": "probability",
    "cells": "predicted cells",
}
# times its width that a panel is high at most: that of a long strip would have more pixels than
# most programs open
TALLEST = 8


def cell_colours(instances: Array) -> NDArray[np.uint8]:
    """Paint a label image: background black, unknown pixels (-1) grey, every cell a colour of its own.

    Args:
        instances: label image, shape (H, W).

    Returns:
        RGB image of shape (H, W, 3).

    >>> cell_colours(np.array([[0, -1]])).tolist()
    [[[0, 0, 0], [128, 128, 128]]]
    """
    ids = np.asarray(instances, dtype=np.int64)
    # Hues a golden ratio apart never come close for neighbouring ids; brightness tells later rounds apart.
    hue = (ids * 0.6180339887) % 1.0
    value = np.where(ids % 3 == 0, 1.0, np.where(ids % 3 == 1, 0.85, 0.7))
    sector = np.stack([(hue * 6 + shift) % 6 for shift in (5, 3, 1)], axis=-1)
    rgb = 1 - 0.75 * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    painted = (rgb * value[..., None] * 255).astype(np.uint8)
    painted[ids == 0] = 0
    painted[ids < 0] = 128
    return painted


def case_figure(case: Mapping[str, Array], title: str = "") -> Figure:
    """One row of pictures of one case, as many as there are arrays for.

    Args:
        case: any of ``image``, ``instances`` (reference cells), ``label`` (0/1), ``weight``, ``pred`` (probabilities,
            channel 1 is the foreground; several kinds of cells get a colour each) and ``cells`` (predicted), each of
            shape (C, H, W).
        title: written above.
    """
    shown = [name for name in _CAPTIONS if name in case]
    height, width = next(iter(case.values())).shape[-2:]
    figure = Figure(figsize=(3.2 * len(shown), 3.2 * min(height / width, TALLEST) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    for column, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), column + 1)
        array = np.asarray(case[name])
        if name == "image":
            axes.imshow(array[0], cmap="gray")
        elif name == "label":
            axes.imshow(_labelled(array[0], case))
        elif name == "weight":
            # A handful of pixels where three cells meet would darken all others.
            drawn = axes.imshow(array[0], cmap="turbo", vmin=0, vmax=max(1.0, float(np.percentile(array, 99.9))))
            figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
        elif name == "pred":
            axes.imshow(_probabilities(array), cmap="gray", vmin=0, vmax=1)
        else:
            axes.imshow(cell_colours(array[0]))
        axes.set_title(_CAPTIONS[name], fontsize=8)
        axes.set_axis_off()
    return figure


def _probabilities(of_classes: Array) -> Array:
    """Of the cell, grey; of several kinds of cells a colour each, as bright as it is probable."""
    if len(of_classes) == 2:
        return np.asarray(of_classes[1])
    colours = cell_colours(np.arange(1, len(of_classes))[None])[0] / 255
    return np.einsum("khw,kc->hwc", of_classes[1:], colours).clip(0, 1)


def _labelled(label: Array, case: Mapping[str, Array]) -> NDArray[np.uint8]:
    """The label that the network learns, painted with the reference cells where they are known."""
    if "instances" not in case:
        return cell_colours(label)
    instances = np.asarray(case["instances"])[0]
    return cell_colours(np.where((label > 0) | (instances < 0), instances, 0))


def curve_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Curves of all columns of a metric table against the step: losses on the left, scores on the right.

    Args:
        rows: one mapping a validation, each with ``step``; see ``logbook.Logbook``.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for name in [name for name in rows[-1] if name not in ("epoch", "step", "seconds", "learning_rate")]:
        axes = losses if name.endswith("loss") else scores
        axes.plot(steps, [row.get(name, np.nan) for row in rows], marker=".", label=name)
    for axes, caption in ((losses, "loss"), (scores, "score")):
        axes.set_xlabel("step")
        axes.set_title(caption, fontsize=9)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG beside ``path`` and move it into place."""
    with placed(path) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": f"{SOFTWARE} {unet_paper.__version__}"})


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as an RGB image of shape (H, W, 3)."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(rgba)[..., :3].copy()


class CaseFigures:
    """Handler of an evaluator that draws its first cases into ``folder``, one PNG a case, new ones over old ones.

    Args:
        folder: where the pictures go.
        cases: how many cases to draw.
    """

    def __init__(self, folder: str | Path, cases: int = 4) -> None:
        self.folder = Path(folder)
        self.cases = cases
        self._drawn = 0
        self._names = CaseNames()

    def attach(self, engine: Engine) -> None:
        """Draw while ``engine`` runs; ``engine.state.figures`` holds the pictures by name."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _start(self, engine: Any) -> None:
        self._drawn = 0
        engine.state.figures = {}

    def _draw(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            if self._drawn >= self.cases:
                return
            name = self._names(item["image"])
            case = {key: output[key].detach().cpu().numpy() for key in output if getattr(output[key], "ndim", 0) == 3}
            when = f"epoch {engine.state.epoch}, " if engine.state.epoch else ""
            figure = case_figure(case, title=f"{when}{name}")
            # the cases are dealt to the processes in turn
            place = self._drawn * engines.process_count() + engines.process_rank()
            save_figure(figure, self.folder / f"{place:02d}_{name}.png")
            engine.state.figures[name] = pixels(figure)
            self._drawn += 1


class CaseNames:
    """Names of a run's cases, each its own: those that :func:`case_name` calls as one before are numbered.

    As ``day1/images/001.tif`` and ``day2/images/001.tif``, which a table of pairs may list.
    """

    def __init__(self) -> None:
        self._sources: dict[str, str] = {}

    def __call__(self, image: Any) -> str:
        """The name, the same whenever the same image comes."""
        name, source = case_name(image), _source(image)
        number = 1
        while self._sources.setdefault(name if number == 1 else f"{name}.{number}", source) != source:
            number += 1
        return name if number == 1 else f"{name}.{number}"


def _source(image: Any) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "image"))


def case_name(image: Any) -> str:
    """Name of a case for files and tables, from where its image came: folder, stem and page.

    Args:
        image: MetaTensor with ``filename_or_obj`` in its meta data.
    """
    path, page = split_page(_source(image))
    stem = f"{path.parent.name}_{path.name.removesuffix(extension(path))}".strip("_")
    return stem if page is None else f"{stem}_{page:03d}"

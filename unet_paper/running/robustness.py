"""Scores of validation images as they are, and as another day's light, optics and camera would make them.

The images that a training sets aside are of the same hour as those it learns from. Whoever uses its weights has others,
and a score that falls when an image becomes a little darker or softer will fall there. Each image is changed in one
respect at a time, by the same amount for every network, and scored against its own annotation. Where cells are
annotated one by one, copies of some are set against others, too: of cells that touch, a day may have more.
"""

import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from monai.inferers.inferer import Inferer
from monai.transforms import Compose
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from unet_paper.acquisition import blurred
from unet_paper.magnification import MagnifiedInferer
from unet_paper.paste_cells import RandPasteCellsd
from unet_paper.running import checkpoint, engines, logbook
from unet_paper.running.placement import placed
from unet_paper.running.tables import markdown_table

logger = logging.getLogger(__name__)

AS_THEY_ARE = "as they are"


class Change(NamedTuple):
    """One respect in which images are changed.

    Attributes:
        of: what changes: exposure, contrast, shading, blur, noise, scale or contacts.
        by: how much, in that order a factor of all grey values, a factor of their distances from the image's mean, the
            light at the left edge over that in the middle (the right edge has the reciprocal), the sigma of a Gaussian
            in px, the standard deviation of white noise over the ``grey_std`` of the weights, a factor of the size, a
            number of cells.
    """

    of: str
    by: float

    def __str__(self) -> str:
        """Such as ``exposure x 0.8``."""
        if self.of == "contacts":
            return f"{self.by:g} cells set against others"
        return f"{self.of} {self.by:g} px" if self.of == "blur" else f"{self.of} x {self.by:g}"


CHANGES = (
    Change("exposure", 0.8),
    Change("exposure", 1.25),
    Change("contrast", 0.7),
    Change("contrast", 1.4),
    Change("shading", 1.1),
    Change("blur", 1.0),
    Change("blur", 2.0),
    Change("noise", 0.1),
    Change("noise", 0.25),
    Change("scale", 0.8),
    Change("scale", 1.25),
)
CONTACTS = Change("contacts", 3)
# which cells are copied, and where to, is drawn so often: one drawing on few images makes few contacts to judge by
DRAWINGS = 5


def changed(image: Tensor, change: Change, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised images (B, C, H, W) as they were if their grey values had been changed; scale and contacts do not.

    Args:
        image: (grey value - mean) / std.
        change: see there.
        mean: subtracted from grey values, one or (C,).
        std: they are then divided by it, one or (C,).
    """
    mean, std = (number.to(image).reshape(1, -1, 1, 1) for number in (mean, std))
    grey = image * std + mean
    if change.of == "exposure":
        grey = grey * change.by
    elif change.of == "contrast":
        middle = grey.mean(dim=(-2, -1), keepdim=True)
        grey = middle + change.by * (grey - middle)
    elif change.of == "shading":
        grey = grey * torch.exp(torch.linspace(1, -1, grey.shape[-1]).to(grey) * math.log(change.by))
    elif change.of == "blur":
        grey = torch.stack([blurred(one, change.by) for one in grey])
    elif change.of == "noise":
        # the same for every network
        noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(0))
        grey = grey + change.by * std * noise.to(grey)
    elif change.of not in ("scale", "contacts"):
        raise ValueError(f"{change.of!r}: images change in exposure, contrast, shading, blur, noise, scale or contacts")
    return (grey - mean) / std


class ChangedInferer(Inferer):
    """Changes images before an inferer; scores have the size of the images given, whatever their scale in between.

    Args:
        inferer: predicts the changed images.
        change: see there.
        mean, std: of the weights, see :func:`changed`.
    """

    def __init__(self, inferer: Inferer, change: Change, mean: Any, std: Any) -> None:
        super().__init__()
        factor = change.by if change.of == "scale" else 1.0
        self.inferer = MagnifiedInferer(inferer=inferer, magnification=factor)
        self.change = change
        self.mean, self.std = (torch.as_tensor(number, dtype=torch.float32) for number in (mean, std))

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, K, H, W) of images (B, C, H, W)."""
        return self.inferer(changed(inputs, self.change, self.mean, self.std), network, *args, **kwargs)


class Robustness:
    """Scores an evaluator's images as they are, under each of ``CHANGES``, and with contacts made.

    Those scores are the mean over ``DRAWINGS`` drawings of the contacts, the same ones for every network.

    Into the folder come ``robustness.csv``, a row a change, and ``robustness.json``, which names the checkpoint, too,
    and has the mean, the lowest and the highest value over all changes.

    Args:
        evaluator: engine of MONAI with its network; its metrics are what is scored.
        folder: where the files go.
        ckpt_path: checkpoint of the network, for the record.
        mean, std: of the weights, see :func:`changed`.
        annotation: of the images; contacts are made where it is ``instances``.
        turn: whether copies of cells are turned, see :class:`unet_paper.paste_cells.RandPasteCells`.
        weighting: transforms from instances to label and weight, which follow the contacts.
    """

    def __init__(
        self,
        evaluator: Any,
        folder: str | Path,
        ckpt_path: str | Path,
        *,
        mean: Any,
        std: Any,
        annotation: str = "instances",
        turn: bool = True,
        weighting: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        self.evaluator = evaluator
        self.folder = Path(folder)
        self.ckpt_path = ckpt_path
        self.mean = mean
        self.std = std
        self.changes = (*CHANGES, CONTACTS) if annotation == "instances" else CHANGES
        self.turn = turn
        self.weighting = weighting
        self.scores: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        """Score, and write what came of it."""
        self._score(AS_THEY_ARE)
        inferer = self.evaluator.inferer
        try:
            for change in self.changes:
                self.evaluator.inferer = ChangedInferer(inferer, change, self.mean, self.std)
                if change.of == "contacts":
                    self._score_contacts(change)
                else:
                    self._score(str(change))
        finally:
            self.evaluator.inferer = inferer
        if not engines.is_secondary():
            self._write()

    def _score(self, name: str) -> None:
        self.scores[name] = self._scored()

    def _scored(self) -> dict[str, float]:
        self.evaluator.run()
        return {metric: float(value) for metric, value in self.evaluator.state.metrics.items()}

    def _score_contacts(self, change: Change) -> None:
        """The mean over drawings; images get their contacts before each step of the evaluator."""
        number = int(change.by)
        drawn = []
        for drawing in range(DRAWINGS):
            paste = RandPasteCellsd("image", count=(number, number), turn=self.turn)
            steps = Compose([paste, *self.weighting])
            steps.set_random_state(seed=drawing)  # of Compose, which seeds what it holds anew
            with self.evaluator.add_event_handler(Events.ITERATION_STARTED, _set_contacts, steps):
                drawn.append(self._scored())
        self.scores[str(change)] = {metric: _mean_of_defined([one[metric] for one in drawn]) for metric in drawn[0]}

    def _write(self) -> None:
        logbook.write_table(
            [{"images": name, **row} for name, row in self.scores.items()], self.folder / "robustness.csv"
        )
        summary = {
            "checkpoint": {"path": str(self.ckpt_path), "sha256": checkpoint.sha256(self.ckpt_path)},
            "scores": {name: _without_nan(row) for name, row in self.scores.items()},
            "mean_of_changes": _without_nan(_over_changes(self.scores, statistics.fmean)),
            "lowest_of_changes": _without_nan(_over_changes(self.scores, min)),
            "highest_of_changes": _without_nan(_over_changes(self.scores, max)),
        }
        with placed(self.folder / "robustness.json") as part:
            part.write_text(json.dumps(summary, indent=1) + "\n")
        metrics = list(self.scores[AS_THEY_ARE])
        rows = [[name, *(f"{row[metric]:.4f}" for metric in metrics)] for name, row in self.scores.items()]
        logger.info("written to %s\n%s", self.folder, "\n".join(markdown_table(["images", *metrics], rows)))


def _set_contacts(engine: Any, steps: Callable[[Any], Any]) -> None:
    """The batch of the step that begins, one image, as the steps make it; the markers know the copies, too."""
    batch = engine.state.batch
    before = convert_to_tensor(batch["instances"][0], track_meta=False)
    item = steps({"image": convert_to_tensor(batch["image"][0], track_meta=False), "label": before})
    for key in ("label", "weight", "instances"):
        batch[key] = item[key][None]
    batch["image"] = convert_to_dst_type(item["image"][None], batch["image"])[0]
    if "markers" in batch:
        markers = convert_to_tensor(batch["markers"], track_meta=False)
        instances = torch.as_tensor(item["instances"])[None]
        copies = (instances > 0) & (before[None] != instances)
        batch["markers"] = torch.where(copies, instances + int(markers.max()), markers)


def _mean_of_defined(values: Sequence[float]) -> float:
    # in a drawing whose copies found no place nothing may touch
    return statistics.fmean([value for value in values if not math.isnan(value)] or [math.nan])


def _over_changes(scores: Mapping[str, Mapping[str, float]], merge: Callable[[list[float]], float]) -> dict[str, float]:
    of_changes = [row for name, row in scores.items() if name != AS_THEY_ARE]
    return {metric: merge([row[metric] for row in of_changes]) for metric in scores[AS_THEY_ARE]}


def _without_nan(row: Mapping[str, float]) -> dict[str, float | None]:
    # JSON knows no NaN: a score that is not defined is null
    return {metric: value if math.isfinite(value) else None for metric, value in row.items()}

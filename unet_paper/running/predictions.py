"""What a prediction leaves on disk: label images and probabilities, a stack for a stack, and a picture."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import IterationEvents
from numpy.typing import NDArray

from unet_paper.classes import cell_probability, class_of
from unet_paper.data.reader import NIFTI, extension, layout, split_page
from unet_paper.running.cell_outputs import OTHERS, check_outputs
from unet_paper.running.figures import cell_colours
from unet_paper.running.label_files import LabelFile, NiftiVolume, TiffStack, save_picture
from unet_paper.running.prediction_job import PredictionJob

logger = logging.getLogger(__name__)

# px along a panel's longer side that an overview shows of an image, at most
PANEL = 1024
GAP = 8


def overview(image: NDArray[Any], probability: NDArray[Any] | None, cells: NDArray[Any]) -> NDArray[np.uint8]:
    """Image, probability (if there is one) and cells side by side, every n-th pixel of large ones.

    Args:
        image: grey values, shape (H, W) or what is shown of it; their range is spread from black to white.
        probability: of the foreground, shape (H, W).
        cells: label image, shape (H, W).

    Returns:
        RGB image, shape (h, w, 3).

    >>> overview(np.array([[2.0, 3.0]]), None, np.array([[0, 0]]))[0, :2, 0].tolist()
    [0, 255]
    """
    step = _step(cells.shape)
    cells, image = cells[::step, ::step], image if image.shape != cells.shape else image[::step, ::step]
    low, high = image.min(), image.max()
    panels = [_grey((image - low) / (high - low if high > low else 1))]
    if probability is not None:
        panels.append(_grey(probability[::step, ::step]))
    # one colour an id, looked up: in a tenth of the time of a colour each pixel
    panels.append(cell_colours(np.arange(cells.max(initial=0) + 1))[cells])
    gap = np.full((cells.shape[0], GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(parts[1:], axis=1)


def _step(shape: Sequence[int]) -> int:
    return -(-max(shape[-2:]) // PANEL)


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat((255 * values.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


class PredictionWriter:
    """Handler of an evaluator that writes, for every image file ``NAME.*`` it predicts:

    - ``NAME_cells.tif``: label image, uint16 (uint32 beyond 65535 cells on any page), 0 is background;
    - ``NAME_classes.tif``: of networks with several kinds of cells, the class of each pixel's cell, 0 is background;
    - ``NAME_probability.tif``: float32 probability of the foreground, where the output has ``probability``;
    - ``NAME_overview.png``: image, probability and cells of the first page, side by side.

    All pages of a stack go into one file, in their order. A file appears under its name when its last page is written.
    Pixel size and axes of the image are kept; of a NIfTI image the predictions are NIfTI, with its affine.

    Args:
        job: which images are predicted, and where their predictions go.
        label_key: key of the label image (1, H, W) in the engine's output.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`.
        probability_key: key of the probabilities (K, H, W), or that of the cell (1, H, W); that of a cell of whatever
            class is written.
        outputs: with ``probability`` and ``overview`` those two are written; others are ``cell_outputs``'.
    """

    def __init__(
        self,
        job: PredictionJob,
        label_key: str = "pred",
        probability_key: str = "probability",
        *,
        outputs: Sequence[str] | str = OTHERS,
        num_classes: int = 2,
    ) -> None:
        self.job = job
        self.outputs = check_outputs(outputs)
        self.num_classes = num_classes
        self.label_key = label_key
        self.probability_key = probability_key
        self._source = ""
        self._files: dict[str, LabelFile] = {}
        self._picture: NDArray[np.uint8] | None = None
        self._pages = 0

    def attach(self, engine: Engine) -> None:
        """Write while ``engine`` runs."""
        self.job.attach(engine)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._thin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._abandon)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._give_up)

    @staticmethod
    def _thin(engine: Any) -> None:
        """Once it is predicted, leave of the image what the overview shows: its memory is needed for the cells."""
        image = engine.state.batch["image"]
        step = _step(image.shape)
        if step > 1:
            seen = MetaTensor(image.as_tensor()[..., ::step, ::step].clone()).copy_meta_from(image)
            engine.state.batch["image"] = seen
            engine.state.output["image"] = seen.as_tensor()

    def _write(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            address = str(item["image"].meta["filename_or_obj"])
            try:
                self._write_page(address, item, output)
            except OSError:  # of a full disk, which takes no other either
                raise
            except Exception as error:
                self._abandon()
                self.job.fail(address, error)

    def _write_page(self, address: str, item: Any, output: Any) -> None:
        source = str(split_page(address)[0])
        cells = output[self.label_key][0].cpu().numpy()
        known = self.probability_key in output
        probability = cell_probability(output[self.probability_key].cpu().numpy()) if known else None
        if source != self._source:
            self._begin(source, probability is not None and "probability" in self.outputs)
            if "overview" in self.outputs:
                self._picture = overview(item["image"][0].cpu().numpy(), probability, cells)
        if probability is not None and "probability" in self.outputs:
            self._files["probability"].append(probability.astype(np.float32, copy=False))
        if "classes" in self._files:
            self._files["classes"].append(class_of(cells, self.num_classes))
        self._files["cells"].append(cells)
        self._pages += 1
        if self._pages == self.job.pages(source):
            self._finish()

    def _begin(self, source: str, probability: bool) -> None:
        self._abandon()
        self._source = source
        # the label image last: where it stands, all of its company does
        kinds = ["probability"] * probability + ["classes"] * (self.num_classes > 2) + ["cells"]
        for kind in kinds:
            path, mark, pages = self.job.path(source, kind), self.job.mark(source), self.job.pages(source)
            if extension(source) in NIFTI:
                self._files[kind] = NiftiVolume(path, Path(source), pages, mark)
            else:
                self._files[kind] = TiffStack(path, layout(source), pages, mark)

    def _finish(self) -> None:
        if self._picture is not None:
            save_picture(self._picture, self.job.path(self._source, "overview"), self.job.mark(self._source))
        self.job.remove_others(self._source, {*self._files, *self.outputs})
        for file in self._files.values():
            file.close()
        logger.info("%s -> %s", self._source, self._files["cells"].path)
        self._files, self._source, self._pages, self._picture = {}, "", 0, None

    def _abandon(self, _engine: Engine | None = None) -> None:
        """Drop what is incomplete: a later page of its file failed."""
        for file in self._files.values():
            file.abandon()
        self._files, self._source, self._pages = {}, "", 0

    def _give_up(self, _engine: Engine, error: BaseException) -> None:
        self._abandon()
        raise error

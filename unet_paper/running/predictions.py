"""What a prediction leaves on disk: label images and probabilities as TIFF, a stack for a stack, and a picture."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from PIL import Image

from unet_paper.data.reader import split_page
from unet_paper.running.figures import cell_colours

logger = logging.getLogger(__name__)

# px along a panel's longer side that an overview shows of an image, at most
PANEL = 1024
GAP = 8


def overview(image: NDArray[Any], probability: NDArray[Any] | None, cells: NDArray[Any]) -> NDArray[np.uint8]:
    """Image, probability (if there is one) and cells side by side, every n-th pixel of large ones.

    Args:
        image: grey values, shape (H, W); their range is spread from black to white.
        probability: of the foreground, shape (H, W).
        cells: label image, shape (H, W).

    Returns:
        RGB image, shape (h, w, 3).

    >>> overview(np.array([[2.0, 3.0]]), None, np.array([[0, 0]]))[0, :2, 0].tolist()
    [0, 255]
    """
    step = -(-max(cells.shape) // PANEL)
    image, cells = image[::step, ::step], cells[::step, ::step]
    low, high = image.min(), image.max()
    panels = [_grey((image - low) / (high - low if high > low else 1))]
    if probability is not None:
        panels.append(_grey(probability[::step, ::step]))
    # one colour an id, looked up: in a tenth of the time of a colour each pixel
    panels.append(cell_colours(np.arange(cells.max(initial=0) + 1))[cells])
    gap = np.full((cells.shape[0], GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(parts[1:], axis=1)


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat((255 * values.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


class _Stack:
    """TIFF that is written page by page under a temporary name and moved into place when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._writer = tifffile.TiffWriter(self._part)

    def append(self, page: NDArray[Any]) -> None:
        # without tifffile's own description, readers take the pages as one stack; level 1: half the time, 1 % larger
        self._writer.write(
            page, compression="zlib", compressionargs={"level": 1}, photometric="minisblack", metadata=None
        )

    def close(self) -> None:
        self._writer.close()
        os.replace(self._part, self.path)


class PredictionWriter:
    """Handler of an evaluator that writes, for every image file ``NAME.*`` it predicts:

    - ``NAME_cells.tif``: label image, uint16 (uint32 beyond 65535 cells), 0 is background;
    - ``NAME_probability.tif``: float32 probability of the foreground, where the output has ``probability``;
    - ``NAME_overview.png``: image, probability and cells of the first page, side by side.

    All pages of a stack go into one file, in their order. A file appears under its name when it is complete.

    Args:
        output_dir: folder for all files.
        label_key: key of the label image (1, H, W) in the engine's output.
        probability_key: key of the probabilities (2, H, W); channel 1 is written.
    """

    def __init__(self, output_dir: str | Path, label_key: str = "pred", probability_key: str = "probability") -> None:
        self.output_dir = Path(output_dir)
        self.label_key = label_key
        self.probability_key = probability_key
        self._source = ""
        self._stacks: dict[str, _Stack] = {}
        self._names: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Write while ``engine`` runs."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _write(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            address = str(item["image"].meta["filename_or_obj"])
            source = str(split_page(address)[0])
            cells = output[self.label_key][0].cpu().numpy()
            probability = output[self.probability_key].cpu().numpy() if self.probability_key in output else None
            if source != self._source:
                self._begin(source, probability is not None)
                image = item["image"][0].cpu().numpy()
                picture = overview(image, None if probability is None else probability[1], cells)
                _save_png(picture, self.output_dir / f"{self._names[source]}_overview.png")
            self._stacks["cells"].append(cells.astype(np.uint16 if cells.max(initial=0) < 2**16 else np.uint32))
            if probability is not None:
                self._stacks["probability"].append(probability[1].astype(np.float32))

    def _begin(self, source: str, probability: bool) -> None:
        self._finish()
        self._source = source
        name = Path(source).name
        stem = name.removesuffix(".gz").rsplit(".", 1)[0]
        # a.png and a.tif in one folder: the second keeps its extension in the name
        self._names[source] = name if stem in self._names.values() else stem
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for kind in ("cells", "probability") if probability else ("cells",):
            self._stacks[kind] = _Stack(self.output_dir / f"{self._names[source]}_{kind}.tif")

    def _finish(self, _engine: Engine | None = None) -> None:
        for stack in self._stacks.values():
            stack.close()
        if self._stacks:
            logger.info("%s -> %s", self._source, self._stacks["cells"].path)
        self._stacks, self._source = {}, ""


def _save_png(picture: NDArray[np.uint8], path: Path) -> None:
    part = path.with_name(path.name + ".part")
    Image.fromarray(picture).save(part, format="png", compress_level=1)
    os.replace(part, path)

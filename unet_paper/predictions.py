"""What a prediction leaves on disk: label images and probabilities as TIFF, a stack for a stack, and a picture."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from unet_paper import figures
from unet_paper.reader import split_page

logger = logging.getLogger(__name__)


class _Stack:
    """TIFF that is written page by page under a temporary name and moved into place when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._writer = tifffile.TiffWriter(self._part)

    def append(self, page: NDArray[Any]) -> None:
        # without tifffile's own description, readers take the pages as one stack
        self._writer.write(page, compression="zlib", photometric="minisblack", metadata=None)

    def close(self) -> None:
        self._writer.close()
        os.replace(self._part, self.path)


class PredictionWriter:
    """Handler of an evaluator that writes, for every image file ``NAME.*`` it predicts:

    - ``NAME_cells.tif``: label image, uint16 (uint32 beyond 65535 cells), 0 is background;
    - ``NAME_probability.tif``: float32 probability of the foreground, where the output has ``probability``;
    - ``NAME_overview.png``: image, probability and cells of the first page.

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
                case = {"image": item["image"].cpu().numpy(), "cells": cells[None]}
                if probability is not None:
                    case["pred"] = probability
                path = self.output_dir / f"{self._names[source]}_overview.png"
                figures.save_figure(figures.case_figure(case, title=Path(address).name), path)
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

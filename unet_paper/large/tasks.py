"""The stages of a run in blocks, and one task of a stage: a plain function on a folder, which may be called anywhere.

``run_task`` is all that a runner has to call. It opens what the folder's plan names, refuses to work where it would
compute otherwise than planned, does one task and marks it as done; a task that is done already is passed over. Stages
follow one another; tasks of one stage may be done in any order, at once, on any machine that sees the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor, nn

from unet_paper.data.image_store import ImageStore, open_image
from unet_paper.data.normalisation import NormaliseBandsd
from unet_paper.data.reader import CheckImaged
from unet_paper.data.unit_range import ScaleToUnitRanged
from unet_paper.instances import Settings
from unet_paper.large import label_store
from unet_paper.large.block_cells import BlockCells
from unet_paper.large.block_prediction import BlockPrediction, TileGrid
from unet_paper.large.grid import Box, Grid
from unet_paper.large.plan import Plan, read_plan, refuse_other_worker
from unet_paper.large.runners import Work
from unet_paper.large.table import write_table
from unet_paper.large.workspace import DiskWorkspace
from unet_paper.network import UNet
from unet_paper.running import checkpoint, engines

STORE = "store.zarr"
PREDICT = "predict"
# in the plan's image: what changes where its pixels are written anew
STATE = "state"


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: of the step.
        count: tells its number of tasks, once the steps before it are done.
        work: does one task and returns its findings.
        parallel: whether its tasks are many; a step of one task is done by whoever leads.
    """

    name: str
    count: Callable[[], int]
    work: Callable[[int], Mapping[str, NDArray[Any]]]
    parallel: bool = True


class Case:
    """One plane of an image: its stages, and what they need.

    Args:
        folder: of the run; holds the plan, the store of labels, and a folder a plane.
        plan: the plan.
        plane: index along the image's axes before y and x.
    """

    def __init__(self, folder: Path, plan: Plan, plane: tuple[int, ...]) -> None:
        self.folder = folder
        self.plan = plan
        self.plane = plane

    @cached_property
    def image(self) -> ImageStore:
        """The image; one with other headers under the planned name is refused. Its state is the leader's to look at."""
        image = open_image(self.plan.image["address"])
        if dict(image.identity) != {name: value for name, value in self.plan.image.items() if name != STATE}:
            raise ValueError(
                f"dataset_dir={self.plan.image['address']}: is not the image it was when the run was planned; choose "
                "another --output_dir"
            )
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.size

    @cached_property
    def tiles(self) -> TileGrid:
        """The network's tiles."""
        levels = len(self.plan.network["features"])
        return TileGrid(*self.size, self.plan.magnification, self.plan.tile_size, levels, self.plan.tiles)

    @cached_property
    def grid(self) -> Grid:
        """The blocks."""
        return Grid(*self.size, self.plan.block)

    @property
    def name(self) -> str:
        """Of the plane: ``t0_z3``, ``plane`` where there is but one."""
        axes = self.image.plane_axes
        return "_".join(f"{axis}{index}" for axis, index in zip(axes, self.plane, strict=True)) or "plane"

    @cached_property
    def workspace(self) -> DiskWorkspace:
        """Arrays and findings of this plane."""
        return DiskWorkspace(self.folder / self.name, self.plan.fingerprint, self._output("labels/cells/0"))

    def create(self) -> None:
        """Make the arrays of this plane."""
        channels = 1 if self.plan.magnification == 1 else 2
        self.workspace.create("scores", (channels, *self.tiles.seen), self.tiles.blocks.side, "float32")
        for name in ("components", "grown", *(["gaps"] if self.plan.cells["fill_holes"] else [])):
            self.workspace.create(name, self.size, self.plan.block, "int32")

    @cached_property
    def prediction(self) -> BlockPrediction:
        """Prediction of blocks."""
        device = torch.device(self.plan.engine["device"])
        return BlockPrediction(
            self.tiles,
            self._network(device),
            self._normalised,
            self.workspace.array("scores"),
            device,
            torch.bfloat16 if self.plan.engine["precision"] == "bfloat16" else None,
        )

    @cached_property
    def known(self) -> BlockPrediction:
        """Prediction as the stages after it read it, without a network."""
        return BlockPrediction(self.tiles, None, self._normalised, self.workspace.array("scores"), torch.device("cpu"))

    @cached_property
    def cells(self) -> BlockCells:
        """Cells of blocks."""
        settings = Settings(**self.plan.cells)  # type: ignore[typeddict-item]
        return BlockCells(
            self.grid,
            settings,
            self.workspace,
            self.known.probability,
            lambda box: self.image.read(self.plane, *box.slices),
            self.plan.memory,
            tuple(self.plan.channel_names) or None,
        )

    def stages(self) -> list[Stage]:
        """All steps, in their order."""
        cells, blocks = self.cells, lambda: len(self.grid)
        fills = bool(self.plan.cells["fill_holes"])
        pyramid = [self._pyramid(level) for level in range(1, label_store.levels_of(self.size))]
        return [
            Stage(PREDICT, lambda: len(self.tiles.blocks), lambda index: self.prediction.predict(index)),
            Stage("label", blocks, cells.label),
            Stage("join_components", lambda: 1, cells.join_components, parallel=False),
            Stage("split", cells.split_groups, cells.split),
            Stage("number_parts", lambda: 1, cells.number_parts, parallel=False),
            Stage("holes", lambda: len(self.grid) if fills else 0, cells.holes),
            Stage("join_holes", lambda: 1, cells.join_holes, parallel=False),
            Stage("grow", blocks, cells.grow),
            Stage("number_cells", lambda: 1, cells.number_cells, parallel=False),
            Stage("relabel", blocks, self._relabel),
            *pyramid,
            Stage("table", lambda: 1, self._table, parallel=False),
        ]

    def run(self, stage: str, index: int) -> None:
        """Do one task, unless it is done."""
        if self.workspace.done(stage, index):
            return
        work = next(step.work for step in self.stages() if step.name == stage)
        began = time.perf_counter()
        facts = work(index)
        self.workspace.finish(stage, index, {**facts, "seconds": np.array(time.perf_counter() - began)})

    def _network(self, device: torch.device) -> nn.Module:
        network = UNet(**self.plan.network)
        checkpoint.load_weights(network, self.plan.weights["path"], self.plan.weights["sha256"])
        layout = (
            torch.channels_last if self.plan.engine["memory_format"] == "channels_last" else torch.contiguous_format
        )
        return network.to(device, memory_format=layout).eval()  # type: ignore[call-overload]

    def _normalised(self, box: Box) -> Tensor:
        """Grey values as the network was trained on them."""
        pixels = self.image.read(self.plane, *box.slices, self.plan.channels)
        meta: dict[str, Any] = {"filename_or_obj": self.image.address, "stored_dtype": pixels.dtype.name}
        # of the plane, as where it is predicted whole: a small block at the border has room for none
        meta["pixels_in_all"] = self.size[0] * self.size[1] * len(pixels)
        if self.image.full_scale is not None:
            meta["full_scale"] = self.image.full_scale
        native = np.ascontiguousarray(pixels.astype(np.float32 if pixels.dtype.kind != "f" else pixels.dtype))
        item = {"image": MetaTensor(torch.from_numpy(native), meta=meta)}
        image = self._preprocessing(item)["image"]
        return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)

    @cached_property
    def _preprocessing(self) -> Any:
        grey = self.plan.grey
        return Compose(
            [
                CheckImaged("image", channels=self.plan.network["in_channels"]),
                ScaleToUnitRanged("image", minimum=grey["minimum"], maximum=grey["maximum"], logarithm=grey.get("log")),
                NormaliseBandsd("image", subtrahend=grey["mean"], divisor=grey["std"]),
            ]
        )

    def _output(self, name: str) -> label_store.PlaneOf:
        return label_store.PlaneOf(zarr.open_group(self.folder / STORE, mode="r+")[name], self.plane)

    def _relabel(self, index: int) -> Mapping[str, NDArray[Any]]:
        facts = self.cells.relabel(index)
        dtype = self.plan.output["probability"]
        if dtype is not None:
            box = self.grid.box(index)
            probability = self.known.probability(box)
            scaled = np.rint(255 * probability) if dtype == "uint8" else probability
            self._output("0")[box.slices] = scaled.astype(dtype)
        return facts

    def _pyramid(self, level: int) -> Stage:
        grid = label_store.level_grid(self.size, level, self.plan.block)

        def work(index: int) -> Mapping[str, NDArray[Any]]:
            root = zarr.open_group(self.folder / STORE, mode="r+")
            label_store.write_level(root[label_store.CELLS], self.plane, level, grid, index, average=False)
            if self.plan.output["probability"] is not None:
                label_store.write_level(root, self.plane, level, grid, index, average=True)
            return {}

        return Stage(f"level_{level}", lambda: len(grid), work)

    def _table(self, _: int) -> Mapping[str, NDArray[Any]]:
        kind = self.plan.output["table"]
        size = None if self.plan.pixel_size is None else (self.plan.pixel_size[0], self.plan.pixel_size[1])
        cells, unmeasured = write_table(
            self.folder / f"{self.name}.{kind}",
            (
                [
                    self.workspace.facts("relabel", row * self.grid.columns + column)
                    for column in range(self.grid.columns)
                ]
                for row in range(self.grid.rows)
            ),
            self.size,
            size,
        )
        return {"cells": np.array(cells), "unmeasured": np.array(unmeasured)}


def run_task(folder: str, fingerprint: str, plane: tuple[int, ...], stage: str, index: int) -> None:
    """Do one task of a run, unless it is done.

    Args:
        folder: of the run, under the same path on every machine.
        fingerprint: of its plan.
        plane: index of the plane.
        stage: name of the step.
        index: of the task.

    Raises:
        RuntimeError: where this process would compute otherwise than planned.
        ValueError: where the folder holds another plan.
    """
    _case(folder, fingerprint, tuple(plane)).run(stage, index)


def work_of(case: Case, stage: str, at_once: int = 1) -> Work:
    """The tasks of one step."""
    folder = str(case.folder)
    do = partial(run_task, folder, case.plan.fingerprint, case.plane, stage)
    return Work(stage, do, partial(check_worker, folder), at_once)


def check_worker(folder: str) -> None:
    """Raise where this process would compute otherwise than planned; sets its threads, and how it keeps memory."""
    plan = read_plan(Path(folder))
    refuse_other_worker(plan)
    torch.set_num_threads(plan.engine["threads"])
    engines.keep_freed_memory()


@lru_cache(maxsize=4)
def _case(folder: str, fingerprint: str, plane: tuple[int, ...]) -> Case:
    plan = read_plan(Path(folder))
    if plan.fingerprint != fingerprint:
        raise ValueError(f"{folder}: holds another plan than the task's; was the output folder made anew meanwhile?")
    check_worker(folder)
    return Case(Path(folder), plan, plane)

"""A whole run in blocks: planned, checked before work, done or gone on with, and summed up."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import zarr

from unet_paper import geometry
from unet_paper.data.image_store import ImageStore, MissingChunks, open_image
from unet_paper.inferer import USUAL_OUTPUT
from unet_paper.instances import DEFAULTS, Settings, check_settings
from unet_paper.large import label_store
from unet_paper.large.plan import PLAN, Plan, processor, software
from unet_paper.large.results import SUMMARY, TIFF, Results
from unet_paper.large.runners import Runner, ThisProcess, runner
from unet_paper.large.tasks import PREDICT, STATE, STORE, Case, Stage, check_worker, work_of
from unet_paper.running import checkpoint, facts, interruption, machine, pixel_size_step, run_folder
from unet_paper.running.placement import placed

logger = logging.getLogger(__name__)

TableFormat = Literal["csv", "parquet"]


class LargePrediction:
    """Cells of an image of any size, equal to those of the whole image (see :mod:`unet_paper.large`).

    Writes into ``output_dir``, for an image ``NAME``: ``NAME_cells.zarr`` or ``NAME_cells.tif``, ``NAME_cells.csv`` or
    ``.parquet`` (``NAME_t0_z3_cells.csv`` where there are several planes), and ``NAME_summary.json``. Until it is
    complete, all lies in ``NAME_work``, from where a run that was killed goes on.

    Args:
        dataset_dir: OME-Zarr folder or URL, or a TIFF file.
        output_dir: folder for the results; every worker must see it under this path.
        ckpt_path: checkpoint of the network.
        ckpt_sha256: refuse any other file; None takes any.
        network: arguments of :class:`unet_paper.network.UNet`.
        grey_mean: of the images that the network was trained on, subtracted after scaling to [0, 1].
        grey_std: and divided by this.
        grey_minimum: grey value that becomes 0.
        grey_maximum: grey value that becomes 1; None for the full scale of the image.
        grey_log: of [0, 1], above which grey values are taken by their logarithm; None: none are.
        channel: number, name or numbers of the channels that the network sees; None for all.
        cells: settings of :func:`unet_paper.instances.label_instances`.
        magnification: of the image before prediction.
        pixel_size: of the training images in micrometres, which the magnification follows; None: not known.
        symmetries: ``"none"``; anything else is refused.
        tile_size: of the network's input in px; None for the smallest that predicts 388 px.
        precision: ``"float32"``, ``"bfloat16"`` or ``"auto"``, see :func:`unet_paper.running.machine.choose`, by which
            the machine that plans chooses for all workers.
        memory_format: of the network, ``"channels_last"``, ``"contiguous"`` or ``"auto"``.
        device: where the network computes.
        threads: of PyTorch in each process; ``"auto"`` for the cores divided by the workers.
        block: side of a block in px, a multiple of the pooling factor.
        tiles: of the network along the side of a block that is predicted.
        memory: bytes that one component that faces cut may take to be split or measured.
        labels: ``"ome-zarr-0.5"``, ``"ome-zarr-0.4"`` or ``"tiff"``.
        probability: ``"uint8"`` or ``"float16"``, the image of the OME-Zarr; None for none.
        table: ``"csv"`` or ``"parquet"``.
        missing_chunks: ``"fill"`` or ``"refuse"``.
        workers: processes of this machine.
        dask: address of a scheduler, or ``"local"``.
        part: ``"3/8"``: every eighth task from the third on, of the first step that is not done, and of those after it
            as far as the other parts have done theirs: one of 8 jobs that know nothing of each other. A run without
            ``part`` does the rest.

    Raises:
        ValueError: settings that are out of range or exclude each other.
    """

    def __init__(
        self,
        *,
        dataset_dir: str | Path,
        output_dir: str | Path,
        ckpt_path: str | Path,
        network: Mapping[str, Any],
        grey_mean: float | Sequence[float],
        grey_std: float | Sequence[float],
        ckpt_sha256: str | None = None,
        grey_minimum: float = 0.0,
        grey_maximum: float | None = None,
        grey_log: float | None = None,
        channel: int | str | Sequence[int] | None = None,
        cells: Mapping[str, Any] = DEFAULTS,
        magnification: float = 1.0,
        pixel_size: float | None = None,
        symmetries: str = "none",
        tile_size: int | None = None,
        precision: str = machine.AUTO,
        memory_format: str | torch.memory_format = machine.AUTO,
        device: str | torch.device = "cpu",
        threads: int | str = machine.AUTO,
        block: int = 2048,
        tiles: int = 4,
        memory: int = 2**30,
        labels: label_store.LabelFormat = "ome-zarr-0.5",
        probability: label_store.ProbabilityType | None = "uint8",
        table: TableFormat = "csv",
        missing_chunks: MissingChunks = "fill",
        workers: int = 1,
        dask: str | None = None,
        part: str | None = None,
    ) -> None:
        if network.get("out_channels", 2) != 2:
            raise ValueError(
                f"ckpt_path={ckpt_path}: tells {network['out_channels']} classes apart, and blocks are joined to cells "
                "of one kind; cut the image into parts that fit into memory and predict them with the config inference"
            )
        levels = len(network["features"])
        factor = geometry.pooling_factor(levels)
        if symmetries != "none":
            raise ValueError(
                f"symmetries={symmetries!r}: averaging turns the whole image, which blocks cannot; set symmetries: none"
            )
        if block < factor or block % factor:
            raise ValueError(f"block={block}: must be a multiple of the pooling factor, {factor} px")
        for name, value, allowed in (
            ("labels", labels, get_args(label_store.LabelFormat)),
            ("probability", probability, (*get_args(label_store.ProbabilityType), None)),
            ("table", table, get_args(TableFormat)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(str, allowed))}")
        for name, number in (("tiles", tiles), ("memory", memory), ("workers", workers)):
            if number < 1:
                raise ValueError(f"{name}={number}: must be at least 1")
        if labels == "tiff" and probability is not None:
            raise ValueError(
                f"probability={probability!r}: goes into an OME-Zarr; set probability: null with labels: tiff"
            )
        settings = Settings(**{**DEFAULTS, **cells})  # type: ignore[typeddict-item]
        check_settings(settings)
        self.part = part_of(part)
        self.dataset_dir, self.output_dir, self.ckpt_path = str(dataset_dir), Path(output_dir), str(ckpt_path)
        self.ckpt_sha256 = ckpt_sha256
        self.channel, self.pixel_size = channel, pixel_size
        self.missing_chunks: MissingChunks = missing_chunks
        self.workers, self.dask = workers, dask
        self.device, self.precision, self.memory_format, self.threads = str(device), precision, memory_format, threads
        self._settings: dict[str, Any] = {
            "network": dict(network),
            "grey": {
                "mean": grey_mean,
                "std": grey_std,
                "minimum": grey_minimum,
                "maximum": grey_maximum,
                # a job that was begun before there was such a thing goes on
                **({} if grey_log is None else {"log": grey_log}),
            },
            "software": software(),
            "tile_size": tile_size or geometry.input_size(USUAL_OUTPUT, levels),
            "magnification": magnification,
            "cells": settings,
            "block": block,
            "tiles": tiles,
            "memory": memory,
            "output": {"labels": labels, "probability": probability, "table": table},
        }
        geometry.output_size(self._settings["tile_size"], levels)

    def plan(self, image: ImageStore) -> Plan:
        """The plan of this run.

        Raises:
            FileNotFoundError, ValueError: of the checkpoint; channels that the image lacks.
        """
        # the weights are read once, so that a wrong file is refused before work
        checkpoint.read_weights(self.ckpt_path, self.ckpt_sha256)
        channels = image.numbers(self.channel)
        wanted = self._settings["network"]["in_channels"]
        if len(channels) != wanted:
            raise ValueError(
                f"channel={self.channel!r}: the network takes {wanted} channels, these are {len(channels)}; "
                "choose with --channel NUMBER"
            )
        ratio = pixel_size_step.magnified(image.address, image.pixel_size, self.pixel_size)
        return Plan(
            image={**image.identity, STATE: image.state()},
            channels=channels,
            weights={"path": str(Path(self.ckpt_path).resolve()), "sha256": checkpoint.sha256(self.ckpt_path)},
            pixel_size=None if image.pixel_size is None else list(image.pixel_size),
            channel_names=list(image.columns),
            engine=self._engine(),
            **{
                **self._settings,
                "magnification": self._settings["magnification"] * ratio,
                "cells": pixel_size_step.rescaled(self._settings["cells"], ratio),
            },
        )

    def _engine(self) -> dict[str, Any]:
        """What computes, and how, on every worker as here."""
        threads = self.threads
        if threads == machine.AUTO and self.workers > 1:
            threads = max(1, machine.own_cores() // self.workers)
        # blocks are tiles: strips of rows would end at no block's face
        chosen = machine.choose(
            self.device,
            precision=self.precision,
            memory_format=self.memory_format,
            strategy="tiles",
            threads=threads,
            engine="torch",
        )
        return {
            "device": self.device,
            "precision": chosen.precision,
            "memory_format": str(chosen.memory_format).removeprefix("torch."),
            "threads": chosen.threads,
            "processor": processor(self.device),
        }

    def run(self) -> dict[str, Any] | None:
        """Do what is left to do.

        Returns:
            What ``NAME_summary.json`` says; None for a part of a run.
        """
        with interruption.saying_how_to_go_on(self.output_dir):
            image = open_image(self.dataset_dir, self.missing_chunks)
            image.say_left_out()
            plan = self.plan(image)
            name = Path(image.address.rstrip("/").rsplit("/", 1)[-1]).stem.removesuffix(".ome")
            cases = [Case(self.output_dir / f"{name}_work", plan, plane) for plane in image.planes()]
            results = Results(self.output_dir, name, cases[0].folder, plan, [case.name for case in cases])
            if (summary := results.finished_before()) is not None:
                return summary
            with self._own_folder(plan):
                # another run may have finished it meanwhile
                return results.finished_before() or self._do(results, cases, image)

    def _own_folder(self, plan: Plan) -> AbstractContextManager[None]:
        """The output folder is this run's, or that of all parts of the same plan."""
        if self.part is None:
            return run_folder.output_folder(self.output_dir)
        number, parts = self.part
        return run_folder.shared_output_folder(self.output_dir, plan.fingerprint[:16], f"{number}_of_{parts}")

    def _do(self, results: Results, cases: Sequence[Case], image: ImageStore) -> dict[str, Any] | None:
        work, plan = results.work, results.plan
        if not (work / PLAN).is_file():
            results.refuse_taken()
            self._make(work, plan, image, cases)
        else:
            logger.info("%s: going on", work)
        plan.refuse_other(work)
        facts.say_frame(plan.cells)
        if (work / SUMMARY).is_file():
            return results.put_into_place()
        check_worker(str(work))
        began = time.perf_counter()
        with runner(self.workers, self.dask) as runs:
            for case in cases:
                self._run_case(case, runs)
        if self.part is not None:
            logger.info(
                "part %d of %d has done what it can; when all have, run them again, or once without part for the rest",
                *self.part,
            )
            return None
        self._refuse_changed(image, plan)
        summary = self._summary(cases, time.perf_counter() - began)
        if plan.output["labels"] == "tiff":
            cells = zarr.open_group(work / STORE, mode="r")[label_store.CELLS]["0"]
            label_store.write_tiff(cells, work / TIFF, plan.pixel_size)
        with placed(work / SUMMARY) as file:
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return results.put_into_place()

    def _run_case(self, case: Case, runs: Runner) -> None:
        for stage in case.stages():
            indices = [index for index in range(stage.count()) if not case.workspace.done(stage.name, index)]
            if self.part is not None:
                number, parts = self.part
                # what is one task, for all, is the first part's
                indices = [index for index in indices if index % parts == number - 1]
            if stage.parallel and indices:
                # the network has threads of its own
                at_once = 1 if stage.name == PREDICT else case.plan.engine["threads"]
                runs(work_of(case, stage.name, at_once), indices)
            else:
                ThisProcess()(work_of(case, stage.name), indices)
            if self.part is not None and self._left_to_others(case, stage):
                return

    @staticmethod
    def _left_to_others(case: Case, stage: Stage) -> bool:
        left = sum(not case.workspace.done(stage.name, index) for index in range(stage.count()))
        if left:
            logger.info("%s: %d of %d tasks are left to the other parts", stage.name, left, stage.count())
        return left > 0

    def _make(self, work: Path, plan: Plan, image: ImageStore, cases: Sequence[Case]) -> None:
        """Make the folder of the run; of several jobs that start at once, one makes it."""
        self._refuse_full_disk(cases)
        making = self.output_dir / f"{work.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            plan.write(making)
            label_store.create_store(
                making / STORE,
                version="0.4" if plan.output["labels"] == "ome-zarr-0.4" else "0.5",
                planes=[(axis, image.array.shape[image.axes.index(axis)]) for axis in image.plane_axes],
                size=image.size,
                block=plan.block,
                pixel_size=plan.pixel_size,
                probability=plan.output["probability"],
            )
            for case in cases:
                Case(making, plan, case.plane).create()
            with suppress(OSError):
                making.rename(work)
            if not (work / PLAN).is_file():
                making.rename(work)  # says why not
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _refuse_changed(self, image: ImageStore, plan: Plan) -> None:
        """Raise if the image was written to while it was read: blocks would be of different images."""
        if image.state() != plan.image[STATE]:
            raise ValueError(
                f"dataset_dir={self.dataset_dir}: has changed while it was predicted; run again with another "
                "--output_dir, once nothing writes to it"
            )

    def _refuse_full_disk(self, cases: Sequence[Case]) -> None:
        needed = sum(_disk_bytes(case) for case in cases)
        free = shutil.disk_usage(self.output_dir).free
        logger.info("at most %.1f GB of disk are needed, %.1f GB are free", needed / 1e9, free / 1e9)
        if needed > free:
            raise OSError(
                f"output_dir={self.output_dir}: {needed / 1e9:.1f} GB may be needed and {free / 1e9:.1f} GB are free; "
                "choose a larger disk with --output_dir"
            )

    def _summary(self, cases: Sequence[Case], seconds: float) -> dict[str, Any]:
        tables = [case.workspace.facts("table", 0) for case in cases]
        steps: dict[str, float] = {}
        for case in cases:
            for stage in case.stages():
                for index in range(stage.count()):
                    spent = float(case.workspace.facts(stage.name, index)["seconds"])
                    steps[stage.name] = steps.get(stage.name, 0.0) + spent
        unmeasured = sum(int(table["unmeasured"]) for table in tables)
        if unmeasured:
            logger.warning(
                "%d cells were too large for memory=%d: their shapes are left empty", unmeasured, cases[0].plan.memory
            )
        return {
            "cells": sum(int(table["cells"]) for table in tables),
            "unmeasured": unmeasured,
            "planes": len(cases),
            "seconds": seconds,
            "seconds_of_tasks": steps,
            "plan": cases[0].plan.content,
        }


def part_of(part: str | None) -> tuple[int, int] | None:
    """Number and count of a part, ``"3/8"``.

    Raises:
        ValueError: what is no part.
    """
    if part is None:
        return None
    number, _, parts = str(part).partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"part={part!r}: i/n with 1 <= i <= n is needed, such as 3/8")
    return int(number), int(parts)


def _disk_bytes(case: Case) -> int:
    """Most bytes that the files of a plane take, if nothing in them can be compressed."""
    height, width = case.size
    seen_height, seen_width = case.tiles.seen
    scores = seen_height * seen_width * 4 * (1 if case.plan.magnification == 1 else 2)
    arrays = (
        4 * (3 + bool(case.plan.cells["fill_holes"]))
        + {"uint8": 1, "float16": 2, None: 0}[case.plan.output["probability"]]
    )
    # a pyramid has a third more pixels than its first level
    return scores + height * width * arrays * 4 // 3

"""The images of a folder, predicted by several: processes of this machine, workers of a Dask scheduler, or a job array.

One image is one task, and what is done to it is what ``inference.yaml`` does: a worker has the same config, but for
where to find the work, and builds network and inferer once. A task is done when its label image is in place, with the
mark that :mod:`unet_paper.running.prediction_job` gives it, so a run that was killed goes on, and an image whose
worker died is predicted by another. The tables of the folder are written at the end, by whoever leads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unet_paper.large.job import part_of
from unet_paper.large.plan import software
from unet_paper.large.runners import Work, runner
from unet_paper.running import checkpoint, engines, interruption, machine, run_folder, settings
from unet_paper.running.placement import placed
from unet_paper.running.prediction_job import PredictionFailure, PredictionJob

logger = logging.getLogger(__name__)

WORK = "images_work"
_SHARE = "share.json"
_WEIGHTS = "unet_paper.running.checkpoint.WeightsLoader"


class ManyImages:
    """A prediction job that is shared out, image by image.

    Args:
        job: all images.
        workers: processes of this machine; 1: this one alone, as without sharing.
        dask: address of a scheduler, or ``"local"`` for ``workers`` workers of this machine.
        part: ``"3/8"``: every eighth image from the third on, and nothing else: one of 8 jobs that know nothing of each
            other. A run without ``part`` does the rest and the folder's tables.
    """

    def __init__(
        self, job: PredictionJob, *, workers: int = 1, dask: str | None = None, part: str | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: at least 1 process does the work")
        self.job = job
        self.workers = workers
        self.dask = dask
        self.part = part_of(part)

    def run(self, evaluator: Any) -> None:
        """Predict; called from within the config, whose evaluator does what is left to this process.

        Args:
            evaluator: of the config.

        Raises:
            PredictionFailure: some images were not predicted; the others are.
        """
        folder = self.job.output_dir
        if self.part is not None:
            number, parts = self.part
            with run_folder.shared_output_folder(folder, self.job.record, f"{number}_of_{parts}"):
                with run_folder.brief_turn(folder):
                    self.job.write_record()
                self.job.only(self.job.files[number - 1 :: parts])
                interruption.run(evaluator, folder)
            logger.info("part %d of %d is predicted; when all are, run once more without part", number, parts)
            return
        run_folder.open_output_folder(folder)
        if self.workers > 1 or self.dask is not None:
            self._share()
        interruption.run(evaluator, folder)

    def _share(self) -> None:
        config = settings.config_in_use("bundle_root", "dataset_dir", "output_dir", "ckpt_path")
        work = self.job.output_dir.resolve() / WORK
        try:
            with interruption.saying_how_to_go_on(self.job.output_dir):
                self.job.write_record()
                # a worker may stand in another folder
                own_names = {os.path.abspath(source): source for source in self.job.outstanding_files}
                content = {
                    "config": _of_worker(config, self.workers),
                    "files": list(own_names),
                    "record": self.job.record,
                    "software": software(),
                }
                shutil.rmtree(work, ignore_errors=True)
                with placed(work / _SHARE) as part:
                    part.write_text(json.dumps(content, default=str), encoding="utf-8")
                digest = hashlib.sha256((work / _SHARE).read_bytes()).hexdigest()
                place = (str(work), digest)
                with runner(self.workers, self.dask) as runs:
                    images = Work("images", partial(predict_one, *place), partial(check_worker, *place))
                    runs(images, range(len(own_names)))
                failed: dict[str, str] = {}
                for file in sorted(work.glob("*.failed.json")):
                    told = json.loads(file.read_text(encoding="utf-8"))
                    failed |= {own_names[source]: reason for source, reason in told.items()}
                self.job.done_by_others(failed)
        except BaseException:
            run_folder.close_run_folder(self.job.output_dir)
            raise
        shutil.rmtree(work)


def _of_worker(config: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """The config as a worker has it: the same, without what leads, and with its share of the cores."""
    own = {name: value for name, value in config.items() if name not in ("initialize", "run", "evaluating", "share")}
    for name in ("dataset_dir", "output_dir", "ckpt_path"):
        own[name] = os.path.abspath(os.path.expanduser(own[name]))
    own["inferer"]["inferer"]["progress"] = False
    own["handlers"] = [handler for handler in own["handlers"] if handler["_target_"] != _WEIGHTS]
    if own["threads"] == machine.AUTO:
        own["threads"] = max(1, machine.own_cores() // workers)
    return own


class _Worker(NamedTuple):
    evaluator: Any
    job: PredictionJob
    files: list[str]


@lru_cache(maxsize=1)
def _worker(work: str, digest: str) -> _Worker:
    share = Path(work) / _SHARE
    if not share.is_file():
        raise FileNotFoundError(f"{share}: no such file; workers need the output folder under the same path everywhere")
    text = share.read_bytes()
    if hashlib.sha256(text).hexdigest() != digest:
        raise RuntimeError(f"{share}: is of another run than the task; was another started in the same folder?")
    content = json.loads(text)
    if content["software"] != software():
        raise RuntimeError(
            f"this worker would compute otherwise than planned: it has {software()}, planned are "
            f"{content['software']}; give all workers the same package and PyTorch"
        )
    built = settings.part_of_config(content["config"])
    engines.keep_freed_memory()
    network, job = built("network"), built("job")
    if job.record != content["record"]:
        raise RuntimeError(
            "this worker would compute otherwise than planned: its weights or settings differ; give all workers the "
            f"same weights, {built('ckpt_path')}, and the same kind of processor"
        )
    path, sha256 = (built(name) for name in ("ckpt_path", "ckpt_sha256"))
    checkpoint.load_weights(network, path, sha256)
    return _Worker(built("evaluator"), job, content["files"])


def check_worker(work: str, digest: str) -> None:
    """Raise where this process would compute otherwise than planned.

    Args:
        work: folder of the run, under the same path on every machine.
        digest: SHA-256 of what is shared out in it.

    Raises:
        FileNotFoundError: no such folder here.
        RuntimeError: another version of the package or of PyTorch, other weights or settings.
    """
    _worker(work, digest)


def predict_one(work: str, digest: str, index: int) -> None:
    """Predict one image, unless it is done; one that cannot be is noted.

    Args:
        work: see :func:`check_worker`.
        digest: see there.
        index: of the image.
    """
    evaluator, job, files = _worker(work, digest)
    job.only([files[index]])
    # of stacks of several lengths, the first would decide how many pages of each are seen
    evaluator.state.epoch_length = None
    try:
        with torch.no_grad():
            evaluator.run()
    except PredictionFailure:
        with placed(Path(work) / f"{index}.failed.json") as part:
            part.write_text(json.dumps(job.failed), encoding="utf-8")

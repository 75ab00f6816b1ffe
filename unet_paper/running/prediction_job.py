"""A folder of predictions in the making: what is to be done, what is done already, what failed.

One image that cannot be read or predicted never costs the others: it is noted, and the job ends with an error that says
which and why. What is complete has its final name at once, and carries a mark of the settings and the image it was made
from, so that the same command goes on where it stopped. No file that this program did not write is ever overwritten.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.utils.data import IterableDataset

import unet_paper
from unet_paper.data.reader import NIFTI, extension, split_page
from unet_paper.data.written_by_us import KINDS, SOFTWARE, is_ours, read_mark
from unet_paper.running import checkpoint, facts
from unet_paper.running.memory import PredictionMemory
from unet_paper.running.placement import placed
from unet_paper.running.settings import cause

logger = logging.getLogger(__name__)

RECORD = "predictions.json"
# bytes, of all usual file systems
LONGEST_NAME = 255
# what a file's name has after the image's; None: as the image's own format has it
_ENDINGS = {
    "cells": None,
    "classes": None,
    "probability": None,
    "overview": "_overview.png",
    "outlines": "_outlines.png",
    "table": "_cells.csv",
    "rois": "_rois.zip",
    "geojson": ".geojson",
}


class PredictionFailure(RuntimeError):
    """Some images of a job were not predicted; the message has a line for each."""


class PredictionJob:
    """What a prediction run has to do in its output folder; attached to the evaluator, it reports at the end.

    Args:
        cases: with ``image``, an address; the pages of a file one after the other.
        output_dir: folder for all files.
        made_with: settings that decide what is predicted, by name, or groups of them; recorded in
            ``predictions.json``.
        ckpt_path: the weights, of which the sha256 is recorded.
        overwrite: predict anew what was predicted before, with whatever settings.
        outputs: what is asked for; an image of which ``probability`` or ``overview`` is missing is predicted anew.
        num_classes: background included; with more than two there is an image of classes too.
        memory: refuses files that will not fit, before the work begins; None tries all.
        machine: what is computed with, by setting; recorded, but a rerun may compute with something else.

    Raises:
        FileExistsError: a file of the user's, or a prediction by other weights or settings, is where a prediction would
            be written.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, str]],
        output_dir: str | Path,
        *,
        made_with: Mapping[str, Any],
        ckpt_path: str | Path,
        overwrite: bool = False,
        outputs: Sequence[str] | str = (),
        num_classes: int = 2,
        memory: PredictionMemory | None = None,
        machine: Mapping[str, Any] | None = None,
    ) -> None:
        self.memory = memory
        self.output_dir = Path(str(output_dir))
        self.failed: dict[str, str] = {}
        self._kinds = [kind for kind in KINDS if kind != "_classes" or num_classes > 2]
        # what loads the weights says better what is wrong if there are none
        weights = checkpoint.sha256(ckpt_path) if Path(ckpt_path).is_file() else None
        self.made_with = {"weights_sha256": weights, **_flat(made_with)}
        self.of_all = True
        self._overwrite = overwrite
        asked = (outputs,) if isinstance(outputs, str) else outputs
        self._by_prediction_alone = [kind for kind in asked if kind in ("probability", "overview")]
        self._image_hashes: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {}
        for case in cases:
            self._addresses.setdefault(str(split_page(case["image"])[0]), []).append(case["image"])
        self._every = self._addresses
        self._record = _short(json.dumps(self.made_with, sort_keys=True, default=str))
        self._known, self._machines, self._folders = self._read_record()
        self._machine = dict(machine or {})
        first_of_a_name: dict[str, str] = {}
        for source in self._addresses:
            first = first_of_a_name.setdefault(self.path(source, "cells").name.lower(), source)
            if reason := self._misnamed(source) or self._in_the_place_of(first, source):
                self.fail(source, ValueError(reason))
        self._misplaced = dict(self.failed)
        self._done = [source for source in self.predicted if self._is_done(source, overwrite)]
        for source in self.predicted:
            self._image_hash(source)

    def attach(self, engine: Engine) -> None:
        """Begin and report with ``engine``."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._report)

    @property
    def record(self) -> str:
        """Hash of the settings that decide what is predicted."""
        return self._record

    @property
    def outstanding_files(self) -> list[str]:
        """Files that are to be predicted."""
        return [source for source in self._addresses if source not in self._done and source not in self.failed]

    @property
    def files(self) -> list[str]:
        """All files of this job."""
        return list(self._addresses)

    def only(self, sources: Collection[str]) -> None:
        """From now on this job is that of a few of its files, and others do the rest.

        What belongs to the folder, and the record of the settings, are written by the job of all.
        """
        self.of_all = False
        self._addresses = {source: self._every[source] for source in sources}
        self.failed = {source: why for source, why in self._misplaced.items() if source in self._addresses}
        self._done = [source for source in self.predicted if self._is_done(source, self._overwrite)]

    def done_by_others(self, failed: Mapping[str, str]) -> None:
        """Files have been predicted by others, but for those that failed, by reason."""
        self._known, self._machines, self._folders = self._read_record()
        self.failed |= failed
        self._done = [source for source in self.predicted if self._is_done(source, False)]

    @property
    def outstanding(self) -> list[str]:
        """Addresses that are to be predicted."""
        return [a for source, addresses in self._addresses.items() if source not in self._done for a in addresses]

    @property
    def predicted(self) -> list[str]:
        """Files of which there is a prediction: those left out since they were done before, and those done now."""
        return [source for source in self._addresses if source not in self.failed]

    @property
    def left_out(self) -> list[str]:
        """Files that were predicted before."""
        return list(self._done)

    def addresses(self, source: str) -> list[str]:
        """Addresses of the pages of a file that are to be predicted."""
        return list(self._addresses[source])

    def pages(self, source: str) -> int:
        """How many pages of a file are to be predicted."""
        return len(self._addresses[source])

    def path(self, source: str, kind: str) -> Path:
        """Where a prediction of a file goes.

        Args:
            source: the file.
            kind: ``cells``, ``classes``, ``probability``, ``overview``, ``outlines``, ``table``, ``rois`` or
                ``geojson``.
        """
        return self._path(source, kind, ".nii.gz" if extension(source) in NIFTI else ".tif")

    def _path(self, source: str, kind: str, image: str) -> Path:
        file = Path(source)
        stem = file.name[: -len(extension(file))]
        _, page = split_page(self._addresses[source][0])
        if page is not None and len(self._addresses[source]) == 1:
            stem += f"_page{page}"
        return self.output_dir / f"{stem}{_ENDINGS[kind] or f'_{kind}' + image}"

    def mark(self, source: str) -> str:
        """What the files made of ``source`` carry: program, version, and hashes of settings, image and its folder."""
        return f"{SOFTWARE} {unet_paper.__version__} {self._record} {self._image_hash(source)}.{_folder_hash(source)}"

    def fail(self, address: str, error: BaseException) -> None:
        """Note that an image cannot be predicted; the other pages of its file are not tried."""
        source = str(split_page(address)[0])
        inner = cause(error) if isinstance(error, Exception) else error
        reason = str(inner) or type(inner).__name__
        self.failed[source] = reason.removeprefix(f"{source}: ")
        logger.error("not predicted: %s: %s", _printable(source), self.failed[source])

    def _misnamed(self, source: str) -> str:
        """Why no file can have its name after an image's; empty if one can."""
        name = Path(source).name
        if _printable(name) != name:
            return "its name is no text in UTF-8, and tables are; rename it"
        longest = max(len(os.fsencode(self.path(source, kind).name)) for kind in _ENDINGS)
        if (over := longest + len(".part") - LONGEST_NAME) > 0:
            return f"its name leaves no room for the ending of a prediction's; shorten it by {over} characters"
        return ""

    def _in_the_place_of(self, first: str, source: str) -> str:
        """Why the predictions of an image would take the place of another one's; empty if they would not."""
        if first == source or not _ignores_case(self.output_dir):
            return ""
        return (
            f"its name differs from that of {_printable(Path(first).name)} in capitals alone, and the disk of "
            f"{self.output_dir} does not tell these apart; rename it, or choose a folder elsewhere with --output_dir"
        )

    def _begin(self, _engine: Engine) -> None:
        if self._done:
            logger.warning(
                "%s: %d of %d images were predicted before, by the same weights and settings: they stay; "
                "--overwrite True predicts them anew",
                self.output_dir,
                len(self._done),
                len(self._addresses),
            )
        if self.of_all:
            self.write_record()
        if self.outstanding:
            facts.say_frame(self.made_with)
        for source in self._addresses:
            if self.memory is not None and source not in self._done and source not in self.failed:
                self._refuse_too_large(source, self.memory)

    def write_record(self) -> None:
        """Write down settings, machine, and the folders that images come from, in ``predictions.json``.

        Jobs that share a folder do so one after the other: each adds to what is there by then.
        """
        self._known, self._machines, self._folders = self._read_record()
        machines = self._machines.setdefault(self._record, [])
        new = self._machine not in machines and bool(self.outstanding)
        if new:
            machines.append(self._machine)
        folders = {str(Path(source).parent.resolve()) for source in self._addresses} - set(self._folders)
        if new or folders or self._record not in self._known:
            self._known[self._record] = self.made_with
            self._folders += sorted(folders)
            with placed(self.output_dir / RECORD) as part:
                content = {
                    "program": SOFTWARE,
                    "settings": self._known,
                    "computed_with": self._machines,
                    "images_from": self._folders,
                }
                part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")

    def _refuse_too_large(self, source: str, memory: PredictionMemory) -> None:
        try:
            memory.refuse(source, self.pages(source))
        except MemoryError as error:
            self.fail(source, error)
        except Exception:  # whoever reads the file says better what is wrong with it
            logger.debug("%s: its size is not known", source, exc_info=True)

    def _report(self, _engine: Engine) -> None:
        if self.failed:
            lines = [f"  {_printable(Path(source).name)}: {reason}" for source, reason in self.failed.items()]
            raise PredictionFailure(
                f"{len(self.failed)} of {len(self._addresses)} images were not predicted, the others are in "
                f"{self.output_dir}:\n" + "\n".join(lines)
            )

    def _read_record(self) -> tuple[dict[str, Any], dict[str, list[Any]], list[str]]:
        """Settings, and what was computed with, by their hash; and folders of images."""
        path = self.output_dir / RECORD
        if not path.exists():
            return {}, {}, []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["program"] == SOFTWARE:
                machines, folders = content.get("computed_with", {}), content.get("images_from", [])
                return dict(content["settings"]), dict(machines), list(folders)
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            pass
        raise FileExistsError(f"{path}: not written by this program; choose another folder with --output_dir")

    def _is_done(self, source: str, overwrite: bool) -> bool:
        """Whether a file needs no prediction; raises where its prediction has no place to go."""
        for kind in self._kinds:
            path = self.path(source, kind.removeprefix("_"))
            if path.exists() and not (path.is_file() and read_mark(path)):
                raise FileExistsError(
                    f"{path}: not written by this program, and the prediction of {source} would be; choose another "
                    "folder with --output_dir, or move the file away"
                )
        path = self.path(source, "cells")
        if not path.exists() or overwrite:
            return False
        *_, settings, image = read_mark(path).split()
        if settings != self._record:
            raise FileExistsError(
                f"{path}: predicted before with other weights or settings{self._differences(settings)}; choose another "
                "folder with --output_dir, or predict anew with --overwrite True"
            )
        image, _, folder = image.partition(".")  # earlier versions did not write the folder
        if image != self._image_hash(source):
            if folder not in ("", _folder_hash(source)):
                raise FileExistsError(
                    f"{path}: the prediction of an image of that name in another folder than {Path(source).parent}; "
                    "choose another folder with --output_dir, or have this one in its place with --overwrite True"
                )
            logger.warning(
                "%s: has changed since it was predicted, or another image of its name was, and is predicted anew",
                source,
            )
            return False
        if missing := [kind for kind in self._by_prediction_alone if not self.path(source, kind).exists()]:
            logger.warning("%s: was predicted without %s, and is predicted anew", source, " and ".join(missing))
            return False
        return True

    def remove_others(self, source: str, kinds: Collection[str]) -> None:
        """Remove what another prediction of a file left besides what this one writes: it shows other cells.

        Args:
            source: the file.
            kinds: what this one writes.
        """
        if read_mark(self.path(source, "cells")) == self.mark(source):
            return
        own = {self.path(source, kind) for kind in kinds if kind in _ENDINGS}
        # of an image of another format, too, that had this name
        every = {self._path(source, kind, image) for kind in _ENDINGS for image in (".tif", ".nii.gz")}
        for path in sorted(every - own):
            if path.is_file() and is_ours(path):
                logger.warning(
                    "%s: is of an earlier prediction of %s, or of another image of its name, and removed", path, source
                )
                path.unlink()

    def _differences(self, settings: str) -> str:
        before = self._known.get(settings, {})
        now = json.loads(json.dumps(self.made_with, default=str))
        said = [f"{k} was {before[k]}, is {now.get(k)}" for k in before if before[k] != now.get(k)]
        said += [f"{k} is {now[k]}, and was not recorded" for k in now if before and k not in before]
        return f" ({'; '.join(said)})" if said else ""

    def _image_hash(self, source: str) -> str:
        """Of the image as it was when the job began: one that is written to while it is predicted has changed."""
        if source not in self._image_hashes:
            pages = [split_page(address)[1] for address in self._every[source]]
            try:
                stamp: Any = [*_stamp(Path(source)), pages]
            except OSError:
                stamp = source
            self._image_hashes[source] = _short(json.dumps(stamp))
        return self._image_hashes[source]


class ReadableImages(IterableDataset[Any]):
    """Images of a job, transformed; one that cannot be read is noted and left out.

    Args:
        job: the job.
        transform: of ``{"image": address}``.
    """

    def __init__(self, job: PredictionJob, transform: Callable[[Any], Any]) -> None:
        self.job = job
        self.transform = transform

    def __iter__(self) -> Iterator[Any]:
        for address in self.job.outstanding:
            if str(split_page(address)[0]) in self.job.failed:
                continue
            try:
                items = [self.transform({"image": address})]
            except Exception as error:  # of whatever a decoder raises: the others are not held up
                self.job.fail(address, error)
            else:
                yield items.pop()  # not held here while it is predicted

    def __len__(self) -> int:
        """There is none: an engine that counted on more images than can be read would begin with the first one again.

        Raises:
            TypeError: always, which MONAI's and Ignite's engines take for a length that is not known.
        """
        raise TypeError(
            "ReadableImages has no length: how many images can be read is known when all have been; those that are to "
            "be read are job.outstanding"
        )

    def __getitem__(self, index: int) -> Any:
        """There is none: images come one after the other, and one that cannot be read is left out.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"ReadableImages[{index}]: images come one after the other, and one that cannot be read is left out; take "
            "them in a loop, or next(iter(dataset))"
        )


class GuardedStep:
    """``iteration_update`` of an evaluator that notes an image whose prediction fails, and goes on.

    Args:
        step: what predicts, with the engine's post-processing.
        job: the job.
    """

    def __init__(self, step: Callable[[Any, Any], Any], job: PredictionJob) -> None:
        self.step = step
        self.job = job

    def __call__(self, engine: Any, batch: Any) -> Any:
        addresses = _addresses(batch)
        try:
            return self.step(engine, batch)
        except Exception as error:  # one image too large for the memory costs no other
            for address in addresses:
                self.job.fail(address, error)
            engine.state.batch = []
            return []


def _addresses(batch: Any) -> list[str]:
    named = batch["image"].meta["filename_or_obj"]
    return [named] if isinstance(named, str) else list(named)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _ignores_case(folder: Path) -> bool:
    """Whether two names that differ in capitals alone are one file there, as on disks of Windows and macOS."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    with tempfile.NamedTemporaryFile(prefix="unet_paper_", dir=there) as probe:
        return Path(probe.name).with_name(Path(probe.name).name.swapcase()).exists()


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _stamp(image: Path) -> list[Any]:
    """Name, size and time of a file; of an OME-Zarr also those of the files in it: its own stay as they are."""
    inside = sorted(file for file in image.rglob("*") if file.is_file()) if image.is_dir() else []
    sizes_and_times = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (image, *inside)]
    return [
        image.name,
        *sizes_and_times[0],
        *zip((str(file.relative_to(image)) for file in inside), sizes_and_times[1:], strict=True),
    ]


def _folder_hash(source: str) -> str:
    return _short(str(Path(source).parent.resolve()))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]

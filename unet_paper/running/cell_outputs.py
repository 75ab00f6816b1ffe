"""What people do with counted cells: tables, outlines for other programs, pictures, and a page for the whole folder."""

import glob
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from PIL import Image

from unet_paper.classes import cell_probability, named
from unet_paper.data.notices import Notices
from unet_paper.data.pixel_size import micrometres
from unet_paper.data.reader import LabelReader, PageReader, extension, layout, split_page
from unet_paper.data.unlike_training import UNLIKE
from unet_paper.data.written_by_us import is_ours
from unet_paper.measurements import Columns, cell_table
from unet_paper.running.cell_outlines import Outline, cell_outlines, imagej_rois, planes, qupath_geojson
from unet_paper.running.doubt import trust_in_words
from unet_paper.running.label_files import save_picture
from unet_paper.running.overlays import outline_overlay
from unet_paper.running.placement import placed
from unet_paper.running.prediction_job import PredictionJob
from unet_paper.running.prediction_page import prediction_page, worst_first
from unet_paper.running.prediction_summary import (
    CLASS,
    Row,
    TableOfImage,
    class_by_cell,
    join_cells,
    measurements_by_cell,
    read_summary,
    summary_row,
    write_cells,
    write_summary,
)

logger = logging.getLogger(__name__)

OF_AN_IMAGE = ("table", "rois", "geojson", "outlines")
OF_THE_FOLDER = {"table": "cells.csv", "summary": "summary.csv", "page": "predictions.html"}
# written by predictions.PredictionWriter
OTHERS = ("probability", "overview")
# of the images that the network doubts most; more would make the page too large for a browser
PICTURES = 200
# times the largest cell that weights know of, in area; above, it is no larger cell but ground taken for one
TOO_LARGE = 10


class MeasuredPage(NamedTuple):
    """What is known of an image, or of one page of a stack."""

    table: Columns
    row: Row
    outlines: list[Outline]
    picture: NDArray[np.uint8] | None


class CellOutputs:
    """Handler of an evaluator that writes, besides the label images, what ``outputs`` asks for:

    - ``table``: ``NAME_cells.csv``, a row a cell, see :func:`unet_paper.measurements.cell_table`, and
      ``cells.csv``, all of them;
    - ``rois``: ``NAME_rois.zip`` for ImageJ; ``geojson``: ``NAME.geojson`` for QuPath;
    - ``outlines``: ``NAME_outlines.png``, the cells' rims over the image, of a stack its first page;
    - ``summary``: ``summary.csv``, a row an image; ``page``: ``predictions.html``, the same with pictures.

    Stands before ``predictions.PredictionWriter`` among the handlers: where a label image is in its place, all else is.
    What belongs to the folder is written at the end, of all images in it, those included that a rerun leaves out.

    Args:
        job: which images are predicted, and where their predictions go.
        outputs: of the above.
        ckpt_path: the weights, named on the page.
        choice: record of how the weights' post-processing was chosen (``cells_choice``), which tells how well doubt and
            error go together, and how large a cell is known; None: not known.
        classes: names of the classes, background first; of more than two, ids say their class, see
            :mod:`unet_paper.classes`, tables name it, and the summary counts each.
        preprocessing: of images, ``{"image": address}``, which says how they are unlike the training
            (``unlike_training``): of those that were predicted before; None: not known of these.
        label_key: key of the label image (1, H, W) in the engine's output.
        probability_key: key of the probabilities (K, H, W), or that of the cell (1, H, W).

    Raises:
        ValueError: an output that there is not.
    """

    def __init__(
        self,
        job: PredictionJob,
        outputs: Sequence[str] | str,
        *,
        ckpt_path: str | Path = "",
        choice: Mapping[str, Any] | None = None,
        classes: Sequence[str] = ("background", "cell"),
        preprocessing: Callable[[Any], Any] | None = None,
        label_key: str = "pred",
        probability_key: str = "probability",
    ) -> None:
        self.job = job
        self.outputs = check_outputs(outputs)
        self.ckpt_path = Path(ckpt_path)
        self.trust = trust_in_words((choice or {}).get("doubt"))
        self.largest = int((choice or {}).get("largest_cell") or 0)
        self._notices = Notices(logger)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.label_key = label_key
        self.probability_key = probability_key
        self._source = ""
        self._pages: list[MeasuredPage] = []
        self._rows: dict[str, list[Row]] = {}

    def attach(self, engine: Engine) -> None:
        """Write while ``engine`` runs."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, _engine: Engine) -> None:
        """Refuse to overwrite what is the user's; make what a rerun wants more of than the run before."""
        files = [self.job.path(source, kind) for source in self.job.predicted for kind in self._of_an_image()]
        files += [self.job.output_dir / name for kind, name in OF_THE_FOLDER.items() if kind in self.outputs]
        for path in files:
            if path.exists() and not is_ours(path):
                raise FileExistsError(
                    f"{path}: not written by this program, and this run would write it; choose another folder with "
                    "--output_dir, or move the file away"
                )
        for source in self.job.left_out:
            if missing := [kind for kind in self._of_an_image() if not self.job.path(source, kind).exists()]:
                self._write(source, list(self._measured_anew(source)), missing)

    def _of_an_image(self) -> list[str]:
        return [kind for kind in OF_AN_IMAGE if kind in self.outputs]

    def _collect(self, engine: Any) -> None:
        if not set(self.outputs) - set(OTHERS):
            return
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            address = str(item["image"].meta["filename_or_obj"])
            source = str(split_page(address)[0])
            if source != self._source:
                self._source, self._pages = source, []
            labels = output[self.label_key][0].cpu().numpy()
            known = self.probability_key in output
            probability = cell_probability(output[self.probability_key].cpu().numpy()) if known else None
            try:
                self._pages.append(self._measure(source, len(self._pages), labels, probability, _unlike(item)))
            except Exception as error:  # its file may be gone by now: the others are not held up
                self.job.fail(address, error)
                engine.state.batch = [other for other in engine.state.batch if other is not item]
                engine.state.output = [other for other in engine.state.output if other is not output]
                continue
            if len(self._pages) == self.job.pages(source):
                self._write(source, self._pages, self._of_an_image())
                self._source, self._pages = "", []

    def _measure(
        self, source: str, number: int, labels: NDArray[Any], probability: NDArray[Any] | None, unlike: str
    ) -> MeasuredPage:
        address = self.job.addresses(source)[number]
        image, names = _grey_values(address)
        known = layout(source)
        size = micrometres(known)
        table = cell_table(labels, image, probability, pixel_size=size, channel_names=names)
        largest = int(np.max(table["area_px"], initial=0))
        if self.largest and largest > TOO_LARGE * self.largest:
            self._notices.warn(
                "cells that are too large",
                source,
                f"{source}: holds a cell of {largest} px, {largest / self.largest:.0f} times the largest of the "
                f"validation images, {self.largest} px: ground taken for a cell, or an image of another magnification? "
                "Look at it; --threshold, --magnification or weights that know such images may help",
            )
        page = number if self.job.pages(source) > 1 else ""
        row = summary_row(self._name(source), page, labels, probability, table, size, unlike)
        if len(self.classes) > 2:
            table[CLASS] = named(table["id"], self.classes)
            row |= {f"cells_{name}": int(np.sum(table[CLASS] == name)) for name in self.classes[1:]}
        outlined = {"rois", "geojson"} & set(self.outputs)
        pictured = "outlines" in self.outputs and number == 0
        return MeasuredPage(
            table,
            row,
            list(cell_outlines(labels)) if outlined else [],
            outline_overlay(image, labels) if pictured else None,
        )

    def _measured_anew(self, source: str) -> Iterator[MeasuredPage]:
        """Of what was predicted before, from its files."""
        if not self.job.path(source, "probability").exists() and {"table", "summary", "page"} & set(self.outputs):
            self._notices.warn(
                "predictions whose probability was not kept",
                source,
                f"{source}: was predicted without probability among the outputs: there is no mean_probability of "
                "its cells, and no doubt; --overwrite True predicts it anew",
            )
        for number in range(self.job.pages(source)):
            item = self.preprocessing({"image": self.job.addresses(source)[number]}) if self.preprocessing else {}
            yield self._measure(source, number, *self._before(source, number), _unlike(item))

    def _before(self, source: str, number: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Label image and probability of a page, from the files they were written to."""
        cells, probability = self.job.path(source, "cells"), self.job.path(source, "probability")
        page = f"#{number}" if self.job.pages(source) > 1 else ""
        labels = LabelReader().get_data(f"{cells}{page}")[0]
        return labels, PageReader().get_data(f"{probability}{page}")[0] if probability.exists() else None

    def _write(self, source: str, pages: Sequence[MeasuredPage], kinds: Sequence[str]) -> None:
        mark = self.job.mark(source)
        self._rows[source] = [page.row for page in pages]
        outlines = [page.outlines for page in pages]
        if "table" in kinds:
            write_cells([page.table for page in pages], self.job.path(source, "table"))
        numbers = [split_page(address)[1] or 0 for address in self.job.addresses(source)]
        known = layout(source)
        places = planes(known, numbers)
        if known.orientation != 1 and {"rois", "geojson"} & set(kinds):
            self._notices.warn(
                "outlines of images that a tag turns",
                source,
                f"{source}: a tag turns it (orientation {known.orientation}), and its cells are outlined as it stands "
                "then: ImageJ and others show it unturned, outlines in other places; save it upright, without the tag",
            )
        if "rois" in kinds:
            with placed(self.job.path(source, "rois")) as part:
                part.write_bytes(imagej_rois(outlines, mark, places))
        if "geojson" in kinds:
            measured = [measurements_by_cell(page.table) for page in pages]
            classes = [class_by_cell(page.table) for page in pages]
            with placed(self.job.path(source, "geojson")) as part, part.open("w", encoding="utf-8") as file:
                file.writelines(qupath_geojson(outlines, measured, places, mark, classes))
        if "outlines" in kinds and pages[0].picture is not None:
            save_picture(pages[0].picture, self.job.path(source, "outlines"), mark)

    def _finish(self, _engine: Engine) -> None:
        if not self.job.of_all:
            return
        self._say_what_is_older()
        if not {*self.outputs} & {*OF_THE_FOLDER}:
            return
        folder = self.job.output_dir
        rows = self._all_rows()
        if "table" in self.outputs:
            tables = dict.fromkeys(TableOfImage(row["image"], folder / f"{_stem(row)}_cells.csv") for row in rows)
            join_cells(tables, folder / OF_THE_FOLDER["table"])
        self._say_strangers(rows)
        if "summary" in self.outputs:
            write_summary(rows, folder / OF_THE_FOLDER["summary"])
        if "page" in self.outputs:
            ordered = worst_first(rows)
            pictures = (self._picture(row) for row in itertools.islice(ordered, PICTURES))
            page = prediction_page(ordered, pictures, weights=self.ckpt_path, trust=self.trust)
            with placed(folder / OF_THE_FOLDER["page"]) as part, part.open("w", encoding="utf-8") as file:
                file.writelines(page)
        logger.info("%s: %d cells in %d images", folder, sum(int(row["cells"]) for row in rows), len(rows))

    def _say_strangers(self, rows: Sequence[Row]) -> None:
        """Of all images unlike the training, where they are named: lines of the log name a few."""
        strangers = dict.fromkeys(str(row["image"]) for row in rows if row.get(UNLIKE))
        named = {"summary": f"in the column {UNLIKE} of summary.csv", "page": "first in predictions.html"}
        if strangers:
            logger.warning(
                "%d of %d images have grey values unlike those of the training images: %s; look at these first",
                len(strangers),
                len({str(row["image"]) for row in rows}),
                " and ".join(where for kind, where in named.items() if kind in self.outputs) or ", ".join(strangers),
            )

    def _say_what_is_older(self) -> None:
        """Of what belongs to the folder and was not asked for: it tells of other predictions than are there now."""
        labels = (self.job.path(source, "cells") for source in self.job.predicted)
        newest = max((label.stat().st_mtime_ns for label in labels if label.exists()), default=0)
        for kind, name in OF_THE_FOLDER.items():
            path = self.job.output_dir / name
            if kind not in self.outputs and path.is_file() and path.stat().st_mtime_ns < newest and is_ours(path):
                logger.warning(
                    "%s: is older than predictions beside it, and stays so: this run has other outputs; the same again "
                    "with %s among them (--outputs) makes it anew",
                    path,
                    kind,
                )

    def _all_rows(self) -> list[Row]:
        """Of this job's images, and of those that other jobs left in the folder."""
        summary = self.job.output_dir / OF_THE_FOLDER["summary"]
        written = summary.stat().st_mtime_ns if summary.exists() else 0
        before: dict[str, list[Row]] = {}
        for row in read_summary(summary):
            before.setdefault(row["image"], []).append(row)
        rows: list[Row] = []
        for source in self.job.predicted:
            label, known = self.job.path(source, "cells"), before.pop(self._name(source), [])
            if source in self._rows:
                rows += self._rows[source]
            elif label.exists():
                # a label image younger than the summary was predicted by a run that did not come to its end
                fresh = len(known) == self.job.pages(source) and label.stat().st_mtime_ns < written
                rows += known if fresh else [page.row for page in self._measured_anew(source)]
        # of another image whose files were by these names, nothing is left
        taken = {_stem(row) for row in rows}
        others = [row for known in before.values() for row in known if _stem(row) not in taken]
        return rows + [row for row in others if any(self.job.output_dir.glob(f"{glob.escape(_stem(row))}_cells.[tn]*"))]

    def _name(self, source: str) -> str:
        """How tables name a file, or one page that was asked for."""
        addresses = self.job.addresses(source)
        return Path(addresses[0] if len(addresses) == 1 else source).name

    def _picture(self, row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """Cells over their image; None where that image is of another job that drew none."""
        drawn = self.job.output_dir / f"{_stem(row)}_outlines.png"
        if not row["page"] and drawn.exists():
            with Image.open(drawn) as picture:
                return np.asarray(picture.convert("RGB"))
        source = next((source for source in self.job.predicted if self._name(source) == row["image"]), None)
        if source is None:
            return None
        number = int(row["page"] or 0)
        image, _ = _grey_values(self.job.addresses(source)[number])
        return outline_overlay(image, self._before(source, number)[0])


def check_outputs(outputs: Sequence[str] | str) -> tuple[str, ...]:
    """Names of outputs, as the setting ``outputs`` has them.

    Raises:
        ValueError: a name that there is not.

    >>> check_outputs("rois")
    ('rois',)
    """
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    known = (*OTHERS, *OF_AN_IMAGE, "summary", "page")
    for name in names:
        if name not in known:
            raise ValueError(f"outputs={list(names)}: no output {name!r}; choose of {', '.join(known)}")
    return names


def _stem(row: Mapping[str, Any]) -> str:
    """What the files of a row's image begin with."""
    file, page = split_page(row["image"])
    return file.name[: -len(extension(file))] + ("" if page is None else f"_page{page}")


def _unlike(item: Mapping[str, Any]) -> str:
    """In what an image is unlike the training, as its preprocessing has said."""
    return str(getattr(item.get("image"), "meta", {}).get(UNLIKE, ""))


def _grey_values(address: str) -> tuple[NDArray[Any], list[str]]:
    """All channels of an image as its file has them, shape (C, H, W), and their names."""
    pixels, meta = PageReader().get_data(address)
    if pixels.ndim == 2:
        return pixels[None], ["grey"]
    return np.moveaxis(pixels, -1, 0), list(meta["channel_names"])

"""The cells of :func:`unet_paper.instances.label_instances`, block by block, bit for bit.

Why blocks equal the whole, step by step:

1. *Threshold*: per pixel.
2. *Components*: labelled in each block, joined across faces (:mod:`unet_paper.large.faces`).
3. *Split*: acts inside one component. One that no face cuts is whole in its block. One that a face cuts is gathered,
   its bounding box from all blocks, and split by the same function; one whose box needs more than the memory given is
   refused, with its place and size.
4. *Holes*: components of the background, labelled and joined the same way. What decides about a hole (does it reach
   the image's border, which cells touch it) is a minimum, a maximum or an "any", and those add up over blocks.
5. *Smallest size*: areas add up over blocks.
6. *Regrowth*: what becomes of a pixel depends on the labels within 2 ``regrow`` px; a block is worked on with that
   halo. Its tie rule asks for places, not for numbers.
7. *Field of interest*: "any pixel inside" adds up.
8. *Numbers*: the first pixel of a cell is the first of those that the blocks found; cells are sorted by it.

Measurements: a cell is measured by :func:`unet_paper.measurements.measure_cells` from all of its pixels, in the block
where its bounding box begins. Where the box reaches further than ``reach`` px beyond that block, its pixels are
gathered; where that needs more than the memory given, those columns are left empty and the cell is counted.

A stage is a function of a block's index that may be called again, anywhere, with the same result: it reads what
earlier stages left, writes the block's own pixels of one array, and returns what it found out. Stages follow one
another; blocks of one stage know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.cell_shapes import Runs, runs_of
from unet_paper.instances import WHOLE_FIELD, Settings, split, split_component, splits
from unet_paper.label_image import Connectivity, ends_of_squares, keep, lowest_and_highest, regrown, structure
from unet_paper.large.faces import Sides, inner_sides, join, sides
from unet_paper.large.grid import Box, Grid
from unet_paper.measurements import Columns, count_neighbours, measure_cells, neighbour_pairs

Facts = dict[str, NDArray[Any]]

# px beyond a block to which its cells are measured without being gathered one by one
REACH = 256
# bytes a pixel that splitting or measuring a gathered component takes: its labels, probability, grey values in double
# precision, the parts
GATHERED_BYTES = 64


class Workspace(Protocol):
    """Where blocks leave their pixels and findings."""

    def array(self, name: str) -> Any:
        """Array (H, W) of the image's size that takes and gives boxes: ``components``, ``gaps``, ``grown``, ``cells``.

        Integers, 32 bit; a task writes its own block only.
        """

    def facts(self, stage: str, index: int) -> Mapping[str, NDArray[Any]]:
        """What a task of an earlier stage returned."""


@dataclass(frozen=True)
class BlockCells:
    """Cells of one plane, block by block.

    Args:
        grid: the blocks.
        settings: of :func:`unet_paper.instances.label_instances`.
        workspace: arrays and findings.
        probability: gives the probability of the cell in a box, shape (h, w).
        image: gives the grey values in a box, shape (C, h, w); None measures none.
        memory: bytes that one gathered component may take.
        channel_names: of the grey values.

    Raises:
        ValueError: a field of interest that leaves nothing of the image.
    """

    grid: Grid
    settings: Settings
    workspace: Workspace
    probability: Callable[[Box], NDArray[Any]]
    image: Callable[[Box], NDArray[Any]] | None = None
    memory: int = 2**30
    channel_names: tuple[str, ...] | None = None
    _joined: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        frame, shape = self.settings["field_of_interest"], self.grid.image.shape
        if 2 * frame >= min(shape):
            raise ValueError(f"field_of_interest={frame}: leaves nothing of an image of {shape} px; {WHOLE_FIELD}")

    # --- components ---------------------------------------------------------------------------------------------------

    def label(self, index: int) -> Facts:
        """Components of a block, those that no face cuts already split."""
        width = self.settings["min_width"]
        box, around = self.grid.box(index), self.grid.around(index, width - 1)
        probability = self.probability(around)
        foreground, probability = probability > self.settings["threshold"], probability[box.within(around)]
        if np.isnan(probability.min()):
            raise ValueError("probability holds NaN: the network that made it has diverged, or its input held NaN")
        own = foreground[box.within(around)]
        labels, count = ndimage.label(own, structure(self._connectivity), output=np.int32)
        # a component that a face cuts may hold its square elsewhere
        cut = inner_sides(self.grid, index, sides(labels))
        held = np.zeros(count + 1, bool)
        held[labels[ends_of_squares(foreground, width)[box.within(around)]]] = True
        held[0] = False
        whole = held.copy()
        whole[cut] = True
        count = keep(labels, whole)
        held = np.concatenate([[False], held[1:][whole[1:]]])
        cut = inner_sides(self.grid, index, sides(labels))
        cut_boxes = []
        if splits(self.settings):
            boxes = ndimage.find_objects(labels)
            cut_boxes = [_in_image(boxes[number - 1], box) for number in cut]
            labels, count = split(labels, probability, self.settings, whole=cut.tolist())
            held = np.pad(held, (0, count + 1 - len(held)), constant_values=True)
        self._write("components", box, labels)
        return {
            "held": held,
            "areas": np.bincount(labels.ravel(), minlength=count + 1),
            "cut": cut,
            "cut_boxes": np.array(cut_boxes, np.int64).reshape(-1, 4),
            **sides(labels)._asdict(),
        }

    def join_components(self, _: int = 0) -> Facts:
        """Components of the image, and those that must be gathered to be split."""
        facts = self._all("label")
        offsets = _offsets([len(found["areas"]) - 1 for found in facts])
        _fits(int(offsets[-1]))
        lowest = join(self.grid, [_sides(found) for found in facts], offsets, self._connectivity)
        areas = np.concatenate([[0], *(found["areas"][1:] for found in facts)])
        areas = np.bincount(lowest, weights=areas, minlength=len(lowest)).astype(np.int64)
        held = np.zeros(len(lowest), bool)
        np.logical_or.at(held, lowest[1:], np.concatenate([found["held"][1:] for found in facts]))
        groups, boxes = np.empty(0, np.int64), np.empty((0, 4), np.int64)
        if splits(self.settings):
            cut = lowest[
                np.concatenate([found["cut"] + offset for found, offset in zip(facts, offsets[:-1], strict=True)])
            ]
            groups, boxes = _boxes_of(cut, np.concatenate([found["cut_boxes"] for found in facts]))
            large = held[groups] & (areas[groups] >= 2 * self.settings["min_size"])
            groups, boxes = groups[large], boxes[large]
            self._refuse_what_is_too_large(areas[groups], boxes)
        lowest = np.where(held[lowest], lowest, 0)
        return {"offsets": offsets, "lowest": lowest, "areas": areas, "groups": groups, "group_boxes": boxes}

    def split_groups(self) -> int:
        """How many components that faces cut are gathered and split."""
        return len(self._one("join_components")["groups"])

    def split(self, index: int) -> Facts:
        """One component that faces cut, gathered and split."""
        joined = self._one("join_components")
        box = Box(*joined["group_boxes"][index].tolist())
        component = self._mapped("components", box, joined["offsets"], joined["lowest"]) == joined["groups"][index]
        parts = split_component(component, self.probability(box), self.settings)
        return {"areas": np.bincount(parts.ravel()), "parts": parts if parts.max() > 1 else np.empty((0, 0), np.int32)}

    def number_parts(self, _: int = 0) -> Facts:
        """Numbers of the further parts of gathered components, after all others."""
        joined = self._one("join_components")
        further = [len(self.workspace.facts("split", index)["areas"]) - 2 for index in range(self.split_groups())]
        starts = _offsets(further) + len(joined["lowest"]) - 1
        _fits(int(starts[-1]))
        areas = np.concatenate([joined["areas"], np.zeros(sum(further), np.int64)])
        for index, count in enumerate(further):
            if count:
                found = self.workspace.facts("split", index)["areas"]
                areas[joined["groups"][index]] = found[1]
                areas[starts[index] + 1 : starts[index] + 1 + count] = found[2:]
        return {"starts": starts, "areas": areas}

    def _parts(self, box: Box) -> NDArray[np.int32]:
        """Components of the image, split, in a box."""
        joined = self._one("join_components")
        labels = self._mapped("components", box, joined["offsets"], joined["lowest"])
        starts = self._one("number_parts")["starts"]
        for index in np.flatnonzero(np.diff(starts)).tolist():
            group = Box(*joined["group_boxes"][index].tolist())
            shared = group.meet(box)
            if min(shared.shape) > 0:
                further = self.workspace.facts("split", index)["parts"][shared.within(group)]
                piece = labels[shared.within(box)]
                # parts lie in their component only, which has its number in this piece
                piece[further > 1] = starts[index] + further[further > 1] - 1
        return labels

    # --- holes and sizes ----------------------------------------------------------------------------------------------

    def holes(self, index: int) -> Facts:
        """Components of a block's background, and which cells touch them."""
        box, around = self.grid.box(index), self.grid.around(index, 1)
        labels = self._parts(around)
        lowest, highest = (found[box.within(around)] for found in lowest_and_highest(labels, structure(4)))
        gaps, count = ndimage.label(labels[box.within(around)] == 0, structure(self._of_gaps), output=np.int32)
        self._write("gaps", box, gaps)
        numbers = np.arange(1, count + 1)
        rim = _rim(gaps, box, self.grid.image)
        return {
            "lowest": np.asarray(ndimage.minimum(lowest, gaps, numbers), np.int32).reshape(-1),
            "highest": np.asarray(ndimage.maximum(highest, gaps, numbers), np.int32).reshape(-1),
            "open": np.isin(numbers, rim),
            "areas": np.bincount(gaps.ravel(), minlength=count + 1)[1:],
            **sides(gaps)._asdict(),
        }

    def join_holes(self, _: int = 0) -> Facts:
        """Which components are large enough, with their holes filled, and which cell owns which hole."""
        areas = self._one("number_parts")["areas"].copy()
        found: Facts = {}
        if self.settings["fill_holes"]:
            facts = self._all("holes")
            offsets = _offsets([len(block["areas"]) for block in facts])
            gap = join(self.grid, [_sides(block) for block in facts], offsets, self._of_gaps)
            lowest = np.full(len(gap), np.iinfo(np.int32).max)
            highest, size, opened = np.zeros(len(gap), np.int64), np.zeros(len(gap), np.int64), np.zeros(len(gap), bool)
            np.minimum.at(lowest, gap[1:], np.concatenate([block["lowest"] for block in facts]))
            np.maximum.at(highest, gap[1:], np.concatenate([block["highest"] for block in facts]))
            np.add.at(size, gap[1:], np.concatenate([block["areas"] for block in facts]))
            np.logical_or.at(opened, gap[1:], np.concatenate([block["open"] for block in facts]))
            owner = np.where((lowest == highest) & ~opened, highest, 0)
            np.add.at(areas, owner, size)
            found = {"gap_offsets": offsets, "gap_owner": owner[gap]}
        kept = areas >= self.settings["min_size"]
        kept[0] = False
        if self.settings["fill_holes"]:
            found["gap_owner"] = np.where(kept[found["gap_owner"]], found["gap_owner"], 0)
        return {"kept": kept, **found}

    def _filled(self, box: Box) -> NDArray[np.int32]:
        """Components that are large enough, their holes filled, in a box."""
        joined = self._one("join_holes")
        if not self.settings["fill_holes"] and not np.any(np.diff(self._one("number_parts")["starts"])):
            return self._mapped("components", box, self._one("join_components")["offsets"], self._kept_components)
        labels = self._parts(box)
        labels = np.where(joined["kept"][labels], labels, 0)
        if self.settings["fill_holes"]:
            owner = self._mapped("gaps", box, joined["gap_offsets"], joined["gap_owner"])
            labels = np.where(owner > 0, owner, labels)
        return labels

    @cached_property
    def _kept_components(self) -> NDArray[np.int64]:
        lowest = self._one("join_components")["lowest"]
        return np.asarray(np.where(self._one("join_holes")["kept"][lowest], lowest, 0))

    # --- cells --------------------------------------------------------------------------------------------------------

    def grow(self, index: int) -> Facts:
        """Cells of a block with the separation border given back, and all that adds up about them."""
        box, around, ring = self.grid.box(index), self.grid.around(index, self._halo), self.grid.around(index, 1)
        labels = self._filled(around)
        if self.settings["regrow"]:
            labels = regrown(labels, self.settings["regrow"])
        own = labels[box.within(around)]
        self._write("grown", box, own)
        return {**self._what_adds_up(runs_of(own), box), "pairs": neighbour_pairs(labels[ring.within(around)])}

    def _what_adds_up(self, runs: Runs, box: Box) -> Facts:
        """Of the cells in a block: ids, areas, boxes, column of the first pixel, whether any pixel is of interest."""
        cells, frame = len(runs.ids), self.settings["field_of_interest"]
        row, start, stop = (
            part.astype(np.int64) + begin
            for part, begin in ((runs.row, box.top), (runs.start, box.left), (runs.stop, box.left))
        )
        height, width = self.grid.image.shape
        inside = (row >= frame) & (row < height - frame) & (stop > frame) & (start < width - frame)
        ends = np.empty((4, cells), np.int64)
        ends[:2], ends[2:] = np.iinfo(np.int64).max, -1
        for end, side in zip(ends[:2], (row, start), strict=True):
            np.minimum.at(end, runs.cell, side)
        for end, side in zip(ends[2:], (row + 1, stop), strict=True):
            np.maximum.at(end, runs.cell, side)
        first = np.empty(cells, np.int64)
        first[runs.cell[::-1]] = start[::-1]  # from the last run to the first: the first stays
        return {
            "ids": runs.ids.astype(np.int64),
            "areas": np.bincount(runs.cell, weights=stop - start, minlength=cells).astype(np.int64),
            "boxes": ends.T,
            "first": first,
            "inside": np.bincount(runs.cell, weights=inside, minlength=cells) > 0,
        }

    def number_cells(self, _: int = 0) -> Facts:
        """The cells of the image, in the order of their first pixels."""
        facts = self._all("grow")
        parts = np.concatenate([found["ids"] for found in facts])
        ids, where = np.unique(parts, return_inverse=True)
        boxes = _boxes_of(parts, np.concatenate([found["boxes"] for found in facts]))[1]
        areas, inside = np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        np.add.at(areas, where, np.concatenate([found["areas"] for found in facts]))
        np.logical_or.at(inside, where, np.concatenate([found["inside"] for found in facts]))
        # a cell's first pixel is in its topmost row; of blocks that have pixels there, the leftmost comes first
        tops = np.concatenate([found["boxes"][:, 0] for found in facts])
        first = np.full(len(ids), np.iinfo(np.int64).max)
        topmost = tops == boxes[where, 0]
        np.minimum.at(first, where[topmost], np.concatenate([found["first"] for found in facts])[topmost])
        order = _raster_order(boxes[:, 0], first)
        order = order[inside[order]]
        cell = np.zeros(len(self._one("join_holes")["kept"]), np.int32)
        cell[ids[order]] = np.arange(1, len(order) + 1)
        pairs = cell[np.concatenate([found["pairs"] for found in facts])]
        pairs = np.unique(np.sort(pairs[(pairs > 0).all(axis=1)], axis=1), axis=0).astype(np.int64)
        return {
            "cell": cell,
            "areas": areas[order],
            "boxes": boxes[order],
            "neighbours": count_neighbours(np.arange(1, len(order) + 1), pairs),
        }

    def relabel(self, index: int) -> Facts:
        """Final numbers of a block's cells, and the rows of those whose bounding box begins in it.

        Returns:
            Columns of :func:`unet_paper.measurements.cell_table`, in pixels, and ``unmeasured``: how many rows lack
            what needs the whole cell in memory.
        """
        cells = self._one("number_cells")
        box = self.grid.box(index)
        boxes = cells["boxes"]
        starts = (boxes[:, 0] >= box.top) & (boxes[:, 0] < box.bottom)
        starts &= (boxes[:, 1] >= box.left) & (boxes[:, 1] < box.right)
        near = starts & (boxes[:, 2] <= box.bottom + REACH) & (boxes[:, 3] <= box.right + REACH)
        bottom, right = boxes[near, 2:].max(axis=0, initial=0)
        reach = Box(box.top, box.left, max(box.bottom, int(bottom)), max(box.right, int(right)))
        labels = cells["cell"][self.workspace.array("grown")[reach.slices]]
        self._write("cells", box, labels[box.within(reach)])
        known = np.concatenate([[False], near])
        rows = [self._measured(np.where(known[labels], labels, 0), reach)]
        unmeasured = 0
        for number in (np.flatnonzero(starts & ~near) + 1).tolist():
            own = Box(*boxes[number - 1].tolist())
            if own.shape[0] * own.shape[1] * GATHERED_BYTES > self.memory:
                rows.append(_unmeasured(rows[0], number, cells))
                unmeasured += 1
            else:
                gathered = cells["cell"][self.workspace.array("grown")[own.slices]]
                rows.append(self._measured(np.where(gathered == number, number, 0), own))
        columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        order = np.argsort(columns["id"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        columns["neighbours"] = cells["neighbours"][columns["id"] - 1]
        return {**columns, "unmeasured": np.array(unmeasured)}

    def _measured(self, labels: NDArray[np.int32], box: Box) -> Columns:
        if not labels.any():  # nothing begins here: no pixel needs to be read
            box = Box(box.top, box.left, box.top + 1, box.left + 1)
            labels = labels[:1, :1]
        image = None if self.image is None else self.image(box)
        return measure_cells(
            labels, image, self.probability(box), origin=(box.top, box.left), channel_names=self.channel_names
        )

    # --- what the stages share ----------------------------------------------------------------------------------------

    @property
    def _halo(self) -> int:
        """Px around a block that its cells with their border given back, and their neighbours, depend on."""
        # one px more than growing: cells that touch across a face are neighbours
        return 2 * self.settings["regrow"] + 1

    @property
    def _connectivity(self) -> Connectivity:
        return self.settings["connectivity"]

    @cached_property
    def _of_gaps(self) -> Connectivity:
        # what separates 4-connected components is 8-connected background, and the other way round
        return 8 if self._connectivity == 4 else 4

    def _write(self, name: str, box: Box, labels: NDArray[Any]) -> None:
        self.workspace.array(name)[box.slices] = labels

    def _one(self, stage: str) -> Mapping[str, NDArray[Any]]:
        """What a stage of one task found; kept, since every block asks for it."""
        if stage not in self._joined:
            self._joined[stage] = dict(self.workspace.facts(stage, 0))
        return self._joined[stage]

    def _all(self, stage: str) -> list[Mapping[str, NDArray[Any]]]:
        return [self.workspace.facts(stage, index) for index in range(len(self.grid))]

    def _mapped(self, name: str, box: Box, offsets: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels of an array in a box, each block's own numbers replaced by those of the image."""
        labels = np.asarray(self.workspace.array(name)[box.slices])
        mapped = np.zeros(labels.shape, np.int32)
        for index in self.grid.covering(box):
            shared = self.grid.box(index).meet(box).within(box)
            own = np.concatenate([[0], number[offsets[index] + 1 : offsets[index + 1] + 1]]).astype(np.int32)
            mapped[shared] = own[labels[shared]]
        return mapped

    def _refuse_what_is_too_large(self, areas: NDArray[np.int64], boxes: NDArray[np.int64]) -> None:
        needed = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * GATHERED_BYTES
        if len(needed) and needed.max() > self.memory:
            worst = int(needed.argmax())
            top, left, bottom, right = boxes[worst].tolist()
            raise ValueError(
                f"component of {areas[worst]} px in rows {top} to {bottom - 1}, columns {left} to {right - 1}: "
                f"to split it takes {needed[worst]} bytes, memory={self.memory}; give more memory, a higher "
                "threshold, or a cells_preset that splits nothing, such as folder"
            )


def _fits(count: int) -> None:
    if count >= np.iinfo(np.int32).max:
        raise ValueError(
            f"{count} components: more than 32 bits number; give a higher threshold or a part of the image"
        )


def _offsets(counts: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _sides(facts: Mapping[str, NDArray[Any]]) -> Sides:
    return Sides(*(facts[name] for name in Sides._fields))


def _in_image(found: tuple[slice, slice], block: Box) -> Box:
    """Box of an object that was found in a block."""
    rows, columns = found
    return Box(rows.start, columns.start, rows.stop, columns.stop).moved(block.top, block.left)


def _boxes_of(numbers: NDArray[np.int64], boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers, each once, and the box around all boxes of each."""
    ids, where = np.unique(numbers, return_inverse=True)
    around = np.empty((len(ids), 4), np.int64)
    around[:, :2], around[:, 2:] = np.iinfo(np.int64).max, -1
    np.minimum.at(around[:, :2], where, boxes[:, :2])
    np.maximum.at(around[:, 2:], where, boxes[:, 2:])
    return ids, around


def _raster_order(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells in the order of their first pixels."""
    return np.lexsort((column, row))


def _rim(labels: NDArray[Any], box: Box, image: Box) -> NDArray[Any]:
    """Labels of a block at the image's border."""
    at_border = (box.top == image.top, box.left == image.left, box.bottom == image.bottom, box.right == image.right)
    lines = [line for line, ends in zip(sides(labels), at_border, strict=True) if ends]
    return np.unique(np.concatenate(lines)) if lines else np.empty(0, labels.dtype)


def _unmeasured(like: Columns, number: int, cells: Mapping[str, NDArray[Any]]) -> Columns:
    """Row of a cell too large to be gathered: what added up over blocks, NaN for the rest."""
    top, left, bottom, right = cells["boxes"][number - 1].tolist()
    known = {
        "id": number,
        "area_px": cells["areas"][number - 1],
        "top_px": top,
        "left_px": left,
        "bottom_px": bottom,
        "right_px": right,
    }
    return {name: np.array([known.get(name, np.nan)], values.dtype) for name, values in like.items()}

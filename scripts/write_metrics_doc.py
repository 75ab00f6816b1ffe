"""Writes bundle/docs/metrics.md: what each score is, and what moves it on a phantom. Run it after a change of a metric.

python scripts/write_metrics_doc.py
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data import phantom
from unet_paper.metrics import (
    ctc_det,
    ctc_seg,
    iou,
    op_csb,
    pixel_error,
    rand_error,
    v_info,
    v_rand,
    warping_error,
)
from unet_paper.metrics.warping_error import topological_errors
from unet_paper.running import figures
from unet_paper.running.evaluation_report import paint_objects, paint_topological_errors

DOCS = Path(__file__).resolve().parent.parent / "bundle" / "docs"
EM_SIZE, EM_SEED = 128, 4
CELLS_SIZE, CELLS_SEED = 192, 2

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

EM_SCORES: Mapping[str, Callable[..., float]] = {
    "warping error": warping_error,
    "pixel error": pixel_error,
    "Rand error": rand_error,
    "V_rand": v_rand,
    "V_info": v_info,
}
CELL_SCORES: Mapping[str, Callable[[Labels, Labels], float]] = {
    "SEG": ctc_seg,
    "DET": ctc_det,
    "OP_CSB": lambda cells, reference: op_csb(ctc_seg(cells, reference), ctc_det(cells, reference)),
    "IoU": iou,
}


def em_label() -> Mask:
    """The phantom's membranes: True inside cells."""
    return phantom.em_stack(1, EM_SIZE, EM_SEED)[1][0] > 0


def em_changes(label: Mask) -> dict[str, Map]:
    """Probability maps, each the label with one thing changed."""
    cells: Labels = ndimage.label(label)[0]
    areas = np.bincount(cells.ravel())
    areas[0] = 0
    largest, lost = int(areas.argmax()), int(np.abs(areas - 500).argmin())
    row, column = (int(place) for place in ndimage.center_of_mass(cells == largest))
    gap, split, hole = label.copy(), label.copy(), label.copy()
    y, left, right = thinnest_membrane(cells, areas)
    gap[y, left:right] = True
    split[:, column] &= cells[:, column] != largest
    hole[row - 1 : row + 2, column - 1 : column + 2] = False
    return {
        "the label itself": label.astype(float),
        "less contrast, 0.3 and 0.7": 0.3 + 0.4 * label,
        "everything shifted by 1 px": np.pad(label, ((0, 0), (1, 0)), mode="edge")[:, :-1].astype(float),
        "membrane 1 px wider on each side": ndimage.binary_erosion(label, border_value=1).astype(float),
        "a gap of 1 px in one membrane": gap.astype(float),
        "one cell parted by a line of 1 px": split.astype(float),
        "a hole of 3 x 3 px in one cell": hole.astype(float),
        "one cell lost": np.where(cells == lost, 0.0, label),
    }


def thinnest_membrane(cells: Labels, areas: NDArray[np.intp], smallest: int = 300) -> tuple[int, int, int]:
    """Row, first and last column (exclusive) of the shortest run of membrane between two cells, near the middle row."""
    runs = []
    for y, line in enumerate(cells):
        inside = np.flatnonzero(line)
        for left, right in itertools.pairwise(inside):
            a, b = int(line[left]), int(line[right])
            if right > left + 1 and a != b and min(areas[a], areas[b]) >= smallest:
                runs.append((int(right - left), abs(y - len(cells) // 2), y, int(left) + 1, int(right)))
    return min(runs)[2:]


def cells_reference() -> Labels:
    """The phantom's touching cells."""
    return phantom.touching_cells(1, CELLS_SIZE, CELLS_SEED)[1][0].astype(np.int32)


def cells_changes(reference: Labels) -> dict[str, Labels]:
    """Predicted cells, each the reference with one thing changed."""
    areas = np.bincount(reference.ravel())
    areas[0] = 0
    largest = int(areas.argmax())
    touching = reference[ndimage.binary_dilation(reference == largest)]
    neighbour = next(int(number) for number in np.unique(touching) if number not in (0, largest))
    columns = np.flatnonzero((reference == largest).any(axis=0))
    halved, false_object = reference.copy(), reference.copy()
    right = np.arange(CELLS_SIZE) > columns.mean()
    halved[(reference == largest) & right] = reference.max() + 1
    rows, places = np.indices(reference.shape)
    depth = ndimage.distance_transform_edt(np.pad(reference == 0, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    false_object[np.hypot(rows - y, places - x) < 10] = reference.max() + 1
    flat = (ndimage.minimum_filter(reference, 3) == ndimage.maximum_filter(reference, 3)) & (reference > 0)
    return {
        "the reference itself": reference,
        "everything shifted by 1 px": shifted(reference, 1),
        "everything shifted by 4 px": shifted(reference, 4),
        "every cell 1 px smaller": np.where(flat, reference, 0),
        "two touching cells merged": np.where(reference == neighbour, largest, reference),
        "one cell halved": halved,
        "one cell lost": np.where(reference == largest, 0, reference),
        "one false cell": false_object,
    }


def shifted(labels: Labels, pixels: int) -> Labels:
    """To the right; what comes in from the left is the first column again."""
    return np.pad(labels, ((0, 0), (pixels, 0)), mode="edge")[:, :-pixels]


def em_rows() -> list[list[str]]:
    """The scores of every change of the membranes."""
    label = em_label()
    rows = []
    for name, probability in em_changes(label).items():
        scores = {score: function(probability, label) for score, function in EM_SCORES.items()}
        counts = topological_errors(probability, label).counts
        found = ", ".join(f"{error.name.lower().replace('_', ' ')} {count}" for error, count in counts.items() if count)
        numbers = [f"{scores.pop('warping error'):.6f}", *(f"{score:.4f}" for score in scores.values())]
        rows.append([name, *numbers, found or "none"])
    return rows


def cells_rows() -> list[list[str]]:
    """The scores of every change of the cells."""
    reference = cells_reference()
    return [
        [name, *(f"{function(cells, reference):.4f}" for function in CELL_SCORES.values())]
        for name, cells in cells_changes(reference).items()
    ]


def degenerate_rows() -> list[list[str]]:
    """The scores of images that hold nothing, or nothing but a cell."""
    nothing, cell = np.zeros((8, 8)), np.ones((8, 8))
    pairs = {
        "no cell in label and proposal": (nothing, nothing),
        "no cell in the label, all of the proposal is cell": (cell, nothing),
        "all of the label is cell, none in the proposal": (nothing, cell),
        "all of both is one cell": (cell, cell),
    }
    rows = []
    for name, (probability, label) in pairs.items():
        em = [f"{function(probability, label):g}" for function in EM_SCORES.values()]
        cells, reference = probability.astype(np.int32), label.astype(np.int32)
        rows.append([name, *em, *(f"{function(cells, reference):g}" for function in CELL_SCORES.values())])
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def page() -> str:
    """The whole page."""
    return PAGE.format(
        em_size=EM_SIZE,
        cells_size=CELLS_SIZE,
        em=table(["change", *EM_SCORES, "topological errors, px"], em_rows()),
        cells=table(["change", *CELL_SCORES], cells_rows()),
        robustness_configs=",".join(
            f"'bundle/configs/{name}.yaml'" for name in ("train", "data_folder", "evaluate", "robustness")
        ),
        degenerate=table(["", *EM_SCORES, *CELL_SCORES], degenerate_rows()),
    )


def em_figure() -> Figure:
    """Every change of the membranes, with its topological errors."""
    label = em_label()
    panels = {
        name: paint_topological_errors(probability, topological_errors(probability, label).errors)
        for name, probability in em_changes(label).items()
    }
    return _panels(panels)


def cells_figure() -> Figure:
    """Every change of the cells, painted by the match of each reference object."""
    image = phantom.touching_cells(1, CELLS_SIZE, CELLS_SEED)[0][0]
    reference = cells_reference()
    return _panels({name: paint_objects(image, cells, reference) for name, cells in cells_changes(reference).items()})


def _panels(panels: Mapping[str, NDArray[np.uint8]]) -> Figure:
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, painted) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(2, 4, number)
        axes.imshow(painted, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    return figure


PAGE = r"""# The scores

Written by <!-- checkout:begin -->`scripts/write_metrics_doc.py`<!-- checkout:end --><!-- archive:
a program
-->; every number and picture below is computed, on seeded phantoms.

Two challenges, two ways to score. **ISBI 2012** compares a probability map, 1 = cell, with a binary label of
membranes; a threshold $\theta$ makes the map a proposal, strictly $p > \theta$, and the best threshold counts. The
**Cell Tracking Challenge** compares cells with cells. The functions are in `unet_paper.metrics`;
`unet_paper.metrics.monai_metrics` wraps each for a config. Files are scored without a network, or a line of code, by

```
python -m unet_paper.app.score LABEL.tif PREDICTION.tif
python -m unet_paper.app.score 01_GT 01_RES --field_of_interest 50
```

which prints a table, and on request writes all values at every threshold (`--json FILE`) and pictures of the errors
(`--error_maps FOLDER`). A prediction of 8 or 16 bits is scaled by its full range.

## ISBI 2012

All of them take (H, W) or (Z, H, W). Cells are 4-connected. The map is taken in single precision, as a file holds it,
and compared in double. Thresholds are 0, 0.1 .. 0.9, for V_rand and V_info 0, 0.1 .. 1, added up in double precision
as the challenge does, so that the ninth is 0.7999999999999999. One threshold holds for a whole stack, the best one.
What is pooled over its slices and what is averaged is said below: it differs from score to score.

These are the scores of the challenge, digit by digit: 40 made-up cases that its own classes scored are part of the
tests, with every value at every threshold to 1e-9, and all warped labels and classes of errors pixel by pixel.

**Pixel error** (lower is better), `pixel_error`. With true positives, false positives and false negatives counted in
pixels of the cells of all slices together:

$$1 - \max_\theta F, \qquad F = \frac{{2\,TP}}{{2\,TP + FP + FN}}$$

It is not the share of wrong pixels; that, precision and recall are in `pixel_scores`. Source: Arganda-Carreras et al.
2015, doi:10.3389/fnana.2015.00142.

**Rand error** (lower is better), `rand_error`. Over all pairs of different pixels of a slice, $A$ of them joined by
both proposal and label, $S$ by the proposal, $T$ by the label, each added up over all slices:

$$1 - \max_\theta F, \qquad F = \frac{{2 A}}{{S + T}}$$

Every pixel counts, those of the membrane too: all membrane of a slice is one more segment, in the proposal and in the
label. This is what the challenge's own metric classes give; descriptions often restrict it to the cells of the label
(`foreground_restricted`; `rand_error_cells` in evaluations). The values printed in the paper, 0.0382 beside a pixel
error of 0.0611, look like the restricted kind: below, a shift that costs less pixel error costs more Rand error. So
they stand beside `rand_error_cells` in our tables. Precision $A/S$, recall $A/T$ and the plain Rand error, the share
of pairs judged wrongly, which is a mean over slices, are in `rand_scores`. Source: the same paper.

**Warping error** (lower is better), `warping_error`. The label is warped toward the proposal by flipping simple
points, pixels whose change leaves the topology as it is (cells 4-connected, membrane 8-connected), until none of
those that differ is left. Of the pixels that differ still,

$$\min_\theta \frac{{\text{{pixels of splits and merges}}}}{{W H Z}}$$

The order of the flips decides. The pixels that differ are listed once, largest $|p - \theta|$ first, rounded to single
precision, and among equals column by column. A pass goes down the list and flips each pixel that is simple at its
turn; one that is not is looked at again in the next pass only, which begins at the top. The last pass flips nothing.
The canvas has one pixel of membrane around it.

The class of a pixel that is left follows from its 8 neighbours in the warped label, neighbours outside the image left
out. All of them membrane: an object deleted, or, on membrane, added. All of one cell: a hole added, or, on membrane,
deleted. Otherwise membrane with two cells around it is a merge, wherever these cells meet elsewhere, with one cell a
hole added. A cell pixel is a split if, in the square of 20 px to each side of it and without itself, its neighbours
fall into more than one piece beside the membrane; else a hole deleted. Only splits and merges count; all six classes
are in `topological_errors` and in the error maps of an evaluation, `count="mismatches"` counts all, `clustered=True`
counts connected errors of one class once. Source: Jain et al. 2010, doi:10.1109/CVPR.2010.5539950.

**V_rand** and **V_info** (higher is better), `v_rand`, `v_info`; V_rand ranks the challenge. Among the pixels inside
cells of the label, $p_{{ij}}$ is the share in segment $i$ of the proposal and cell $j$ of the label, $s_i$ and $t_j$
its sums over the other index; of a stack, the mean over slices:

$$V^{{Rand}} = \max_\theta \frac{{\sum_{{ij}} p_{{ij}}^2}}{{\frac12 \sum_i s_i^2 + \frac12 \sum_j t_j^2}}, \qquad
V^{{Info}} = \max_\theta \frac{{I(S; T)}}{{\frac12 H(S) + \frac12 H(T)}}$$

Segments are first regrown until only lines of one pixel part them (the border is thinned; that of the label is not).
The pixels next to segments queue, column by column. A pixel at its turn lets its neighbours queue that never did, and
joins the segment that it sees; if it sees two, or none yet, it stays a line. The order is part of the score: watershed
functions of other libraries differ by up to 0.01. A line's pixel inside a cell of the label is a segment of its own.
A proposal without any cell is one segment. `average="micro"` pools the three sums of V_rand over the slices;
`thinned=False` leaves the regrowth out. Source: Arganda-Carreras et al. 2015.

Tables of scores name the version of these rules: 2 since version 0.2.0 of this package; 1, before, came near to the
challenge's scores and not to the last digit. Those of cells have one version, 1.

A label slice without a cell scores 0 in both and counts in the mean, and V_info is 0 where the label has a single
cell, found perfectly or not: 0 / 0 in the challenge's arithmetic. `undefined=1` calls such slices perfect instead.

What other implementations get wrong, and ours did until it was held against these cases: they average the F-scores
of slices instead of pooling counts, keep pixels in a queue that lets a neighbour in as soon as it becomes simple
instead of going in passes, judge the class of an error by its 4 neighbours, and let no pixel pass a line. Two faults
of the Java classes are left out here: in a label slice that is all cell they call every error an object added, and
their plain Rand index gives up at a slice without a cell.

**Unknown pixels**, -1 in a reference, are given to the functions by the wrappers as membrane on which label and
proposal agree.

### What moves them

A phantom of {em_size} x {em_size} px as label, and the label with one thing changed as proposal.

{em}

![The changes and their topological errors](figures/em_changes.png)

Red: merge. Blue: split. Orange: hole added. Violet: object deleted. A mark is 5 px wide.

The pixel error, and the Rand error, which counts the membrane as a segment, charge a membrane that lies one pixel off
more than two cells that became one through a gap. The warping error, V_rand and V_info charge nothing for the place
of a membrane, and the gap, one pixel of it, in full. V_rand also forgives a hole: regrown, it is gone. The warping
error counts neither a hole nor a lost cell. Contrast is of no account as long as a threshold of the sweep lies
between membrane and cell.

## Cell Tracking Challenge

An object $R$ of the prediction matches an object $S$ of the reference if $|R \cap S| > |S| / 2$, strictly. Objects
are label ids, however many components they have.

**SEG** (higher is better), `ctc_seg`: the mean over all objects $S$ of all frames, not frame by frame,

$$\mathrm{{SEG}} = \frac{{1}}{{n}} \sum_S \frac{{|R \cap S|}}{{|R \cup S|}},$$

a term being 0 where nothing matches. False cells cost nothing. Source: Maska et al. 2014,
doi:10.1093/bioinformatics/btu080.

**DET** (higher is better), `ctc_det`: what it takes to repair the detection, relative to making it from nothing,

$$\mathrm{{DET}} = 1 - \frac{{\min(\mathrm{{AOGM}}, \mathrm{{AOGM}}_0)}}{{\mathrm{{AOGM}}_0}}, \qquad
\mathrm{{AOGM}} = 5\,\text{{splits}} + 10\,\text{{missed}} + 1\,\text{{false}}, \quad \mathrm{{AOGM}}_0 = 10\,n$$

A prediction that matches $k$ objects needs $k - 1$ splits, so one giant cell over everything still gets about a half.
The reference are the markers of the tracking (TRA), which every cell has. Source: Matula et al. 2015,
doi:10.1371/journal.pone.0144959.

**OP_CSB** (higher is better), `op_csb`: (SEG + DET) / 2. Source: Ulman et al. 2017, doi:10.1038/nmeth.4473.

**IoU** (higher is better), `iou`: pixels that are cell in both over pixels that are cell in either, whichever cell
they belong to.

**Field of interest**: objects of reference or prediction with no pixel at least 50 px from every border are left out
whole; none is cut. **Unknown pixels**, -1: background for SEG; a false cell that reaches into them costs DET nothing;
IoU leaves them out.

### What moves them

A phantom of {cells_size} x {cells_size} px as reference, also for DET.

{cells}

![The changes and the match of each object](figures/cells_changes.png)

Filled: reference objects, by their Jaccard index from green, 1, to yellow, 0; red: missed. Outlines: predicted cells,
orange without a match.

IoU does not notice that two cells became one, which costs SEG exactly one cell (the Jaccard indices of the two add up
to 1) and DET half a cell. SEG does not notice a false cell, DET does. DET does not notice where an outline runs, SEG
does.

**SEG_touching**, **SEG_separate**: SEG of the objects that touch another one, a pixel of one beside a pixel of the
other (4 neighbours), and of all others. Where cells touch, segmentation fails first.

## On another day

Held-out images are of the same hour as the training's, those of a user are not. With `robustness.yaml` as the last
config of an evaluation,

```
python -m monai.bundle run evaluating --config_file "[{robustness_configs}]" --dataset_dir FOLDER --output_dir runs/NAME
```

the held-out images are scored as they are and changed in one respect at a time, against their own annotation, into
`runs/NAME/robustness/robustness.csv`, a row a change:

| changed | by |
|---|---|
| exposure | all grey values times 0.8; times 1.25 |
| contrast | distances from the image's mean times 0.7; times 1.4 |
| shading | light falling from 1.1 at the left edge to 1 / 1.1 at the right |
| blur | a Gaussian of 1 px; of 2 px |
| noise | white noise of 0.1; of 0.25 times `grey_std` |
| scale | images 0.8 times; 1.25 times as large; scored at the size given |
| contacts | copies of three cells set against others of their image, mean of five drawings; not for binary masks |

The amounts are the same for every network, and so are the noise and the copies. A network that was trained with such
changes is judged by its own medicine: the table tells what would break a network, not what another microscope will
bring.

## When there is nothing to score

{degenerate}

Bad input, shapes that differ, labels that are not binary, probabilities outside [0, 1], NaN, an empty stack, is
refused by every metric, naming the argument and its value. In a MONAI validation an image without any reference
object is NaN in the table of cases, and does not count in SEG and DET of the whole.
"""


def main() -> None:
    """Write the page and its pictures."""
    (DOCS / "metrics.md").write_text(page(), encoding="utf-8")
    figures.save_figure(em_figure(), DOCS / "figures" / "em_changes.png")
    figures.save_figure(cells_figure(), DOCS / "figures" / "cells_changes.png")


if __name__ == "__main__":
    main()

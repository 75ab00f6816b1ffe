"""Draws bundle/docs/figures/large_blocks.png: tiles, blocks, halos and faces on a phantom of touching cells.

python scripts/draw_blocks.py
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper import geometry
from unet_paper.data.phantom_cells import touching_cells
from unet_paper.instances import PRESETS, label_instances
from unet_paper.large.block_prediction import TileGrid
from unet_paper.large.grid import Box, Grid
from unet_paper.running.figures import cell_colours
from unet_paper.weight_map import separation_border

FIGURE = Path(__file__).resolve().parent.parent / "bundle" / "docs" / "figures" / "large_blocks.png"
SIZE, BLOCK, LEVELS = 512, 176, 3
BLUE, ORANGE = "#0072b2", "#d55e00"


def rectangle(box: Box, **style: Any) -> Rectangle:
    """A box in the coordinates of ``imshow``."""
    return Rectangle((box.left - 0.5, box.top - 0.5), box.shape[1], box.shape[0], fill=False, **style)


def colours(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A colour each label."""
    return np.asarray(cell_colours(np.arange(labels.max() + 1))[labels])


def main() -> None:
    images, instances = touching_cells(1, SIZE, seed=4)
    probability = (separation_border(instances[0].astype(np.int32)) > 0).astype(np.float32)
    preset = {**PRESETS["folder"]}
    grid = Grid(SIZE, SIZE, BLOCK)
    tiles = TileGrid(SIZE, SIZE, 1.0, geometry.input_size(128, LEVELS), LEVELS, tiles=2)

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    predicted, labelled, joined = figure.subplots(1, 3)
    predicted.imshow(images[0], cmap="gray")
    for index in range(len(tiles.blocks)):
        rows, columns = tiles.spans(index)
        for row in rows:
            for column in columns:
                box = Box(row.start, column.start, row.stop, column.stop)
                predicted.add_patch(rectangle(box, edgecolor="white", linewidth=0.5))
        predicted.add_patch(rectangle(tiles.blocks.box(index), edgecolor=BLUE, linewidth=1.5))
    margin = geometry.margin(LEVELS)
    box = tiles.blocks.box(0)
    halo = Box(box.top, box.left, box.bottom + margin, box.right + margin)
    predicted.add_patch(rectangle(halo, edgecolor=ORANGE, linewidth=1.5, linestyle="--"))
    predicted.set_title(
        "tiles (white) and blocks of them (blue);\nthe first block reads the dashed box, mirrored outside"
    )

    parts = np.zeros((SIZE, SIZE), np.int32)
    for index in range(len(grid)):
        box = grid.box(index)
        own, _ = ndimage.label(probability[box.slices] > preset["threshold"])
        parts[box.slices] = np.where(own > 0, own + parts.max(), 0)
    labelled.imshow(colours(parts))
    labelled.set_title("components of each block;\nthose at faces have several colours", fontsize=10)
    joined.imshow(colours(label_instances(probability, **preset)))  # type: ignore[arg-type]
    joined.set_title("joined across faces, the border given back\nwith the dashed halo: as in one piece", fontsize=10)
    for axes in (labelled, joined):
        for index in range(len(grid)):
            axes.add_patch(rectangle(grid.box(index), edgecolor="white", linewidth=1.0))
    joined.add_patch(
        rectangle(grid.around(4, 2 * preset["regrow"] + 1), edgecolor=ORANGE, linewidth=1.5, linestyle="--")
    )
    for axes in (predicted, labelled, joined):
        axes.set_axis_off()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=80, metadata={"Software": ""})


if __name__ == "__main__":
    main()

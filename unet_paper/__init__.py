"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597): one module for each noun of the paper.

What a person uses in PyTorch or MONAI code of their own can be imported from here, and is loaded at its first use:

>>> import unet_paper
>>> unet_paper.UNet(features=(8, 16, 32)).levels
3

The wings behind the paper: ``data``, ``metrics``, ``running``, ``release``; ARCHITECTURE.md has the plan of the house.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_paper.app.segmenter import Segmenter
    from unet_paper.elastic_deformation import RandElasticDeformation, RandElasticDeformationd
    from unet_paper.grey_values import RandGreyValues, RandGreyValuesd
    from unet_paper.inferer import OverlapTileInferer
    from unet_paper.instances import LabelInstancesd, label_instances
    from unet_paper.loss import PixelWeightedCrossEntropy
    from unet_paper.magnification import MagnifiedInferer
    from unet_paper.measurements import cell_table
    from unet_paper.network import UNet
    from unet_paper.paste_cells import RandPasteCells, RandPasteCellsd
    from unet_paper.row_streaming import RowStream
    from unet_paper.weight_map import WeightMap, WeightMapd, separation_border

__version__ = "0.2.0"

__all__ = [
    "LabelInstancesd",
    "MagnifiedInferer",
    "OverlapTileInferer",
    "PixelWeightedCrossEntropy",
    "RandElasticDeformation",
    "RandElasticDeformationd",
    "RandGreyValues",
    "RandGreyValuesd",
    "RandPasteCells",
    "RandPasteCellsd",
    "RowStream",
    "Segmenter",
    "UNet",
    "WeightMap",
    "WeightMapd",
    "cell_table",
    "label_instances",
    "separation_border",
]

# PyTorch and MONAI take seconds to import: not before something is used. The function weight_map is not among these,
# since its module has its name.
_MODULES = {
    "LabelInstancesd": "instances",
    "MagnifiedInferer": "magnification",
    "OverlapTileInferer": "inferer",
    "PixelWeightedCrossEntropy": "loss",
    "RandElasticDeformation": "elastic_deformation",
    "RandElasticDeformationd": "elastic_deformation",
    "RandGreyValues": "grey_values",
    "RandGreyValuesd": "grey_values",
    "RandPasteCells": "paste_cells",
    "RandPasteCellsd": "paste_cells",
    "RowStream": "row_streaming",
    "Segmenter": "app.segmenter",
    "UNet": "network",
    "WeightMap": "weight_map",
    "WeightMapd": "weight_map",
    "cell_table": "measurements",
    "label_instances": "instances",
    "separation_border": "weight_map",
}


if not TYPE_CHECKING:  # a type checker that saw it would let any misspelt name pass

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

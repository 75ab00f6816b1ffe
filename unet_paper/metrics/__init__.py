"""The scores of the ISBI 2012 EM challenge and of the Cell Tracking Challenge: arrays in, numbers out.

``monai_metrics`` wraps them for MONAI's engines; it is a module of its own because importing MONAI takes seconds.
This wing may import ``geometry`` and the paper's nouns; it knows nothing of files, of training or of configs.
"""

from unet_paper.metrics.ctc import ctc_det, ctc_seg, op_csb
from unet_paper.metrics.f1 import f1
from unet_paper.metrics.iou import iou
from unet_paper.metrics.panoptic_quality import panoptic_quality
from unet_paper.metrics.pixel_error import pixel_error
from unet_paper.metrics.point_f1 import point_f1
from unet_paper.metrics.rand_error import rand_error
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import warping_error

__all__ = [
    "ctc_det",
    "ctc_seg",
    "f1",
    "iou",
    "op_csb",
    "panoptic_quality",
    "pixel_error",
    "point_f1",
    "rand_error",
    "v_info",
    "v_rand",
    "warping_error",
]

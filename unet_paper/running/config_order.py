"""In which order config files lie over one another: of two that have a setting the later one holds, without a word."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

# configs that stand alone, and those of data sets
_COMPLETE = ("train", "inference", "inference_large")
_DATA = ("data_folder", "data_large", "data_isbi2012", "data_phc_u373", "data_dic_hela")
# the bundle's other configs, by what they lie over; a file of one's own may come anywhere from the overlays on
_LAYER = {
    **dict.fromkeys(_COMPLETE, 0),
    **dict.fromkeys(_DATA, 1),
    "data_points": 2,
    **dict.fromkeys(("fine_tune", "multi_gpu_train", "many_images", "monai_label", "export", "export_bioimage_io"), 3),
    **dict.fromkeys(("inference_onnx", "inference_torchscript", "inference_trt", "release_hela", "release_u373"), 3),
    **dict.fromkeys(("best_folder", "best_isbi2012", "best_phc_u373", "best_dic_hela"), 3),
    "evaluate": 4,
    **dict.fromkeys(("multi_gpu_evaluate", "robustness"), 5),
}
_OWN = 3


def refuse_wrong_order(files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise where a config of the bundle comes after a file that was to change its settings, and takes them back.

    Args:
        files: content of the files, in their order, by name.

    Raises:
        ValueError: naming both files, what is taken back, and the right order; or two configs of which each stands
            alone, or is a data set.

    >>> refuse_wrong_order({"data_folder.yaml": {"dropout": 0.5}, "train.yaml": {"dropout": 0.0}})
    Traceback (most recent call last):
    ValueError: train.yaml takes back dropout of data_folder.yaml, since it comes after it; the order is train.yaml, data_folder.yaml
    """  # noqa: E501 - an error is one line
    for alike, what in ((_COMPLETE, "each stands alone"), (_DATA, "each is a data set")):
        found = [file for file in files if PurePath(file).stem in alike]
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)}: {what}; give one of them")
    names = list(files)
    for place, later in enumerate(names):
        for earlier in names[:place]:
            known = PurePath(later).stem in _LAYER
            taken = [name for name, value in files[earlier].items() if files[later].get(name, value) != value]
            if taken and known and _layer(later) < _layer(earlier):
                raise ValueError(
                    f"{later} takes back {', '.join(taken)} of {earlier}, since it comes after it; the order is "
                    f"{', '.join(_in_order(names))}"
                )


def _layer(file: str) -> int:
    return _LAYER.get(PurePath(file).stem, _OWN)


def _in_order(files: Sequence[str]) -> list[str]:
    """The files as they should be given; one of one's own stays behind what it lay over."""
    places = {}
    for place, file in enumerate(files):
        own = PurePath(file).stem not in _LAYER
        places[file] = max(_layer(file), *(_layer(before) for before in files[: place + 1])) if own else _layer(file)
    return sorted(files, key=places.__getitem__)

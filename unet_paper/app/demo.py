"""``unet-paper demo``: the whole road on a phantom of nuclei, from a folder to counted cells, in minutes on a CPU."""

from collections.abc import Mapping
from pathlib import Path

FOLDER = Path("runs") / "demo"
NETWORK = FOLDER / "network"
PREDICTIONS = FOLDER / "predictions"
MINUTES = "4"
# images with masks; a third as many are new ones
_IMAGES = 12


def phantom_folder() -> Path:
    """Folder of images and masks as a laboratory has one, and of new images in ``new_images``; written if need be."""
    from unet_paper.data import phantom  # MONAI takes seconds to import, and help needs none

    # checks go by the last name of a folder, which must not be one of the user's
    return Path(phantom.write(FOLDER / "demo_nuclei", kind="folder", frames=_IMAGES))


def training_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings for ``train`` on that folder: those given, and a few minutes, too few to try out releases."""
    return {"minutes": MINUTES, "output_dir": str(NETWORK), "start": "chance", **settings}


def prediction_settings(trained: Mapping[str, str]) -> dict[str, str]:
    """Settings for ``predict`` on the new images by what was trained.

    Args:
        trained: settings of the training.
    """
    device = {"device": trained["device"]} if "device" in trained else {}
    return {"weights": trained["output_dir"], "output_dir": str(PREDICTIONS), **device}

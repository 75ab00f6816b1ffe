"""``unet-paper demo``: the whole road on a phantom of touching cells, in minutes on a CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unet_paper.app.bundle_command import BundleCommand

FOLDER = Path("runs") / "demo"


def demonstration(settings: Mapping[str, str], overlays: Sequence[Path] = ()) -> list[BundleCommand]:
    """The commands that train on the phantom and predict the first of its sequences.

    Args:
        settings: of training, as typed.
        overlays: config files of one's own for training.
    """
    data, network = FOLDER / "data", FOLDER / "network"
    places = {"dataset_dir#folder": str(data), "output_dir": str(network)}
    training = BundleCommand("training", ["train", *overlays], {**places, **settings})
    weights = Path(training.settings["output_dir"]) / "model.pt"
    predicted = {"dataset_dir": str(data / "01"), "output_dir": str(FOLDER / "predictions"), "ckpt_path": str(weights)}
    device = {"device": settings["device"]} if "device" in settings else {}
    return [training, BundleCommand("run", ["inference"], {**predicted, **device})]

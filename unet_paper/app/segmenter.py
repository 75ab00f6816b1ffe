"""Cells of arrays, for napari, Jupyter and scripts: what ``unet-paper predict`` does to files."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from numpy.typing import ArrayLike, NDArray

from unet_paper.app.bundle_command import config_path
from unet_paper.app.predict import weights_of
from unet_paper.classes import cell_probability, named
from unet_paper.data.channels import Channel, channel_numbers, usual_names
from unet_paper.measurements import Columns, cell_table
from unet_paper.running import checkpoint, facts
from unet_paper.running.bundle_folder import bundle_folder
from unet_paper.running.prediction_summary import CLASS
from unet_paper.running.setting_ranges import refuse_impossible_values
from unet_paper.running.settings import cause

# what the config does to reach an array in a file
_OF_FILES = ("LoadImaged", "EnsureChannelFirstd")


class Segmentation(NamedTuple):
    """Cells of one image.

    Attributes:
        labels: label image int32, shape (H, W); 0 is background.
        table: columns of :func:`unet_paper.measurements.cell_table`, a value a cell.
        probability: of the cell, float32, shape (H, W), where it was asked for.
    """

    labels: NDArray[np.int32]
    table: Columns
    probability: NDArray[np.float32] | None


class Segmenter:
    """Finds the cells of images given as arrays, by the settings of ``inference.yaml`` and of the weights.

    Made by :meth:`from_checkpoint`. The same image gives the same labels, bit for bit, as ``unet-paper predict``.

    Args:
        parser: of the config, with all settings in place; the network's weights are loaded from its ``ckpt_path``.

    Examples:
        >>> segmenter = Segmenter.from_checkpoint("u373", device="cpu")
        >>> found = segmenter(np.full((120, 130), 84, np.uint8))
        >>> found.labels.shape, len(found.table["id"])
        ((120, 130), 0)
    """

    def __init__(self, parser: ConfigParser) -> None:
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        self.classes: list[str] = parser.get_parsed_content("class_names")
        self.channel: Channel | None = parser.get_parsed_content("channel")
        transforms = [
            parser.get_parsed_content(f"preprocessing#transforms#{number}")
            for number, transform in enumerate(parser.get("preprocessing#transforms"))
            if transform["_target_"] not in _OF_FILES
        ]
        self._preprocessing = Compose(transforms)
        self._parts: dict[str, Any] = {
            "device": parser.get_parsed_content("device"),
            "network": self.network,
            "inferer": parser.get_parsed_content("inferer"),
            "iteration_update": parser.get_parsed_content("evaluator#iteration_update#step"),
            "postprocessing": parser.get_parsed_content("postprocessing"),
        }
        path, sha256 = (parser.get_parsed_content(name) for name in ("ckpt_path", "ckpt_sha256"))
        checkpoint.load_weights(self.network, path, sha256)

    @classmethod
    def from_checkpoint(cls, weights: str | Path, **settings: Any) -> Self:
        """A segmenter by weights of one's own or of a release.

        Args:
            weights: a checkpoint, the folder of a run, or a release: ``"em"``, ``"hela"``, ``"u373"``.
            settings: of ``inference.yaml``, which come before what the weights say of themselves: ``device="cpu"``,
                ``threshold=0.4``, ``min_size=15``.

        Raises:
            FileNotFoundError: no such weights.
            ValueError: a setting that there is not, or a value that it cannot have; weights that do not fit.
        """
        release, given = weights_of(str(weights))
        parser = ConfigParser()
        parser.read_config([str(config_path(config)) for config in ("inference", *release)])
        _refuse_unknown(settings, parser.get())
        refuse_impossible_values(settings, "{}={}")
        # an archive's configs cannot find their folder from here
        root = {"bundle_root": str(bundle_folder())}
        parser.update({**root, **given, "inferer#inferer#progress": False, **settings})
        try:
            facts.say_contradictions(parser.get_parsed_content("facts"), parser.get_parsed_content("used"))
            facts.say_frame(parser.get_parsed_content("cells"))
            return cls(parser)
        except RuntimeError as error:  # in which MONAI wraps what is wrong with a setting
            raise cause(error) from None

    def __call__(
        self,
        image: ArrayLike,
        *,
        probability: bool = False,
        pixel_size: tuple[float, float] | None = None,
        channel_names: Sequence[str] | None = None,
    ) -> Segmentation:
        """Cells of one image.

        Args:
            image: shape (H, W), or (H, W, C) of which the network's channels are taken, with the dtype of its file:
                uint8, uint16, or floating point in [0, 1], unless ``grey_maximum`` says otherwise.
            probability: whether to give the probability, too.
            pixel_size: height and width of a pixel in micrometres, for the table; and the magnification follows it
                where the weights know the pixel size of their training.
            channel_names: of C channels; by default red, green, blue, alpha, as of a picture.

        Raises:
            ValueError: for another shape, masked pixels, NaN, grey values out of range, or a channel that is not there.
        """
        if isinstance(image, np.ma.MaskedArray) and (masked := int(np.sum(image.mask))):
            raise ValueError(f"image: {masked} pixels are masked, and a network sees all; give image.filled(value)")
        if pixel_size is not None and np.shape(pixel_size) != (2,):
            raise ValueError(f"pixel_size={pixel_size!r}: height and width of a pixel in micrometres are needed")
        pixels = np.asarray(image)
        if pixels.ndim not in (2, 3):
            raise ValueError(f"image of shape {pixels.shape}: (H, W) or (H, W, C) is needed; give stacks page by page")
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8) * 255
        names = _names(pixels, channel_names)
        try:
            output = self._predicted(_taken(pixels, names, self.channel), pixel_size)
        except RuntimeError as error:  # in which MONAI wraps what went wrong
            raise cause(error) from None
        labels = output["pred"][0].cpu().numpy()
        of_cell = cell_probability(output["probability"].cpu().numpy())
        channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        table = cell_table(labels, channels, of_cell, pixel_size=pixel_size, channel_names=names)
        if len(self.classes) > 2:
            table[CLASS] = named(table["id"], self.classes)
        return Segmentation(labels, table, of_cell.astype(np.float32) if probability else None)

    def _predicted(self, pixels: NDArray[Any], pixel_size: tuple[float, float] | None) -> dict[str, torch.Tensor]:
        """What the config's evaluator has to say of one image."""
        item = self._preprocessing({"image": _loaded(pixels, pixel_size)})
        evaluator = SupervisedEvaluator(val_data_loader=[list_data_collate([item])], **self._parts)
        evaluator.run()
        (output,) = evaluator.state.output
        return dict(output)


def _refuse_unknown(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for name in settings:
        if name.split("#")[0] not in config:
            close = difflib.get_close_matches(name, config, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(f"{name}={settings[name]!r}: inference.yaml has no such setting{hint}")


def _names(pixels: NDArray[Any], given: Sequence[str] | None) -> list[str]:
    if pixels.ndim == 2:
        return list(given or ["grey"])
    *sides, count = pixels.shape
    if given is None and count > max(min(sides), 4):
        raise ValueError(
            f"image of shape {pixels.shape}: (H, W) or (H, W, C) is needed, and these would be {count} channels; move "
            "channels to the end, np.moveaxis(image, 0, -1), give stacks page by page, or name the channels"
        )
    named = list(given) if given is not None else list(usual_names(count) if count > 2 else map(str, range(count)))
    if len(named) != count:
        raise ValueError(f"channel_names={named}: the image has {count} channels; give a name for each")
    return named


def _taken(pixels: NDArray[Any], names: Sequence[str], channel: Channel | None) -> NDArray[Any]:
    """Channels that the network takes, shape (C, H, W)."""
    if pixels.ndim == 2:
        return pixels[None]
    if channel is None:
        return np.moveaxis(pixels, -1, 0)
    numbers = channel_numbers(channel, names, len(names), "image")
    return np.moveaxis(pixels[..., numbers], -1, 0)


def _loaded(pixels: NDArray[Any], pixel_size: tuple[float, float] | None) -> MetaTensor:
    """An image as the config's ``LoadImaged`` and ``EnsureChannelFirstd`` leave it."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32)))
    # a file that is called so is another image
    meta: dict[str, Any] = {"filename_or_obj": "image", "in_memory": True, "stored_dtype": pixels.dtype.name}
    return MetaTensor(tensor, meta=meta if pixel_size is None else {**meta, "pixel_size_um": pixel_size})

"""The table of ``bundle/docs/images.md``: what each kind of file is taken for, as an image and as a mask.

Every kind is written anew, from one image of 8 bits and one mask, so that what is right is known: the same pixels.
"""

import gzip
import io
import logging
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from conftest import ROOT
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from scipy import ndimage

from unet_paper.data.annotation import InstancesFromAnnotationd
from unet_paper.data.datasets import pairs
from unet_paper.data.image_store import open_image
from unet_paper.data.reader import CheckImaged, LabelReader, PageReader, layout, page_shapes
from unet_paper.data.survey import survey
from unet_paper.data.unit_range import ScaleToUnitRanged

Array = NDArray[Any]
RNG = np.random.default_rng(4)
GREY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)  # not square: a transposition shows
GREY[0, :2] = 0, 255
CELLS = np.zeros((20, 31), np.uint8)
CELLS[1:6, 2:9], CELLS[8:18, 3:12], CELLS[3:15, 15:28] = 1, 2, 3
ELSE = RNG.integers(0, 256, (20, 31), dtype=np.uint8)


LOAD = Compose([LoadImaged("image", reader=PageReader()), EnsureChannelFirstd("image")])


def image(path: Any, **settings: Any) -> Array:
    """The road of images: inference, training, prepare_data and MONAI Label put these transforms together."""
    road = Compose(
        [
            LoadImaged("image", reader=PageReader(settings.pop("channel", None))),
            EnsureChannelFirstd("image"),
            CheckImaged("image"),
            ScaleToUnitRanged("image", **settings),
        ]
    )
    found: Array = road({"image": str(path)})["image"].numpy()
    assert found.shape[0] == 1
    return found[0]


def mask(path: Any, **settings: Any) -> Array:
    """The road of masks."""
    road = Compose(
        [
            LoadImaged("label", reader=LabelReader(), dtype="int64"),
            EnsureChannelFirstd("label"),
            InstancesFromAnnotationd("label", **{"annotation": "instances", **settings}),
        ]
    )
    found: Array = road({"label": str(path)})["label"].numpy()
    return found[0]


def cells(found: Array) -> Array:
    """Ids in the order of their first pixel: what they are called does not matter."""
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[inverse].reshape(found.shape)
    return np.asarray(order)


def refusal(read: Callable[[Any], Array], path: Path) -> str:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        read(path)
    error: BaseException | None = caught.value
    lines = []
    while error is not None:
        lines.append(str(error))
        error = error.__cause__
    return "\n".join(lines)


# --- writers of each kind: of the array they are given, grey values or ids ---


def tiff(path: Path, pixels: Array, **arguments: Any) -> Path:
    path = path.with_suffix(".tif")
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "metadata": None, **arguments})
    return path


def png(path: Path, picture: Image.Image, **arguments: Any) -> Path:
    path = path.with_suffix(".png")
    picture.save(path, **arguments)
    return path


def stored(orientation: int, pixels: Array) -> Array:
    """Pixels as stored so that a viewer, obeying tag 274, shows ``pixels``: the inverse of each turn, by hand."""
    return {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(np.transpose(p), 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](pixels)


def turned_tiff(orientation: int) -> Callable[[Path, Array], Path]:
    def write(path: Path, pixels: Array) -> Path:
        return tiff(path, stored(orientation, pixels), extratags=[(274, 3, 1, orientation, True)])

    return write


def turned_png(orientation: int) -> Callable[[Path, Array], Path]:
    def write(path: Path, pixels: Array) -> Path:
        exif = Image.Exif()
        exif[274] = orientation
        return png(path, Image.fromarray(np.ascontiguousarray(stored(orientation, pixels))), exif=exif)

    return write


def bits(n: int) -> Callable[[Path, Array], Path]:
    def write(path: Path, pixels: Array) -> Path:
        wide = pixels if pixels.max() < 8 else np.round(pixels / 255 * (2**n - 1))
        return tiff(path, wide.astype(np.uint8 if n < 8 else np.uint16), bitspersample=n)

    return write


def grey_palette_tiff(path: Path, pixels: Array) -> Path:
    """Indices in another order than the grey values they stand for."""
    ramp = np.arange(256)[::-1]
    return tiff(path, 255 - pixels, photometric="palette", colormap=(np.stack([ramp] * 3) * 257).astype(np.uint16))


def adjusted_by_imagej(path: Path, pixels: Array, low: int = 60, high: int = 120) -> Path:
    """What Fiji writes after Image > Adjust > Brightness/Contrast without Apply: shown from black to white."""
    shown = (256 * (np.arange(256) - low) // (high - low)).clip(0, 255).astype(np.uint16) * 257
    description = "ImageJ=1.54f\nmin=60.0\nmax=120.0\n"
    return tiff(path, pixels, photometric="palette", colormap=np.stack([shown] * 3), description=description)


def label_palette_tiff(path: Path, pixels: Array) -> Path:
    colours = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    return tiff(path, pixels, photometric="palette", colormap=colours)


def grey_palette_png(path: Path, pixels: Array) -> Path:
    picture = Image.fromarray(255 - pixels).convert("P")
    picture.putdata((255 - pixels).ravel().tolist())
    picture.putpalette(np.repeat(np.arange(256, dtype=np.uint8)[::-1], 3).tobytes())
    return png(path, picture)


def label_palette_png(path: Path, pixels: Array) -> Path:
    picture = Image.fromarray(pixels, mode="P")
    picture.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return png(path, picture, transparency=0)


def composite(path: Path, pixels: Array) -> Path:
    """Fiji's composite of 8 bits: every channel has a palette, the last one from black to red; other pixels first."""
    path = path.with_suffix(".tif")
    ramp = np.arange(256, dtype=np.uint16) * 257
    description = "ImageJ=1.54f\nimages=2\nchannels=2\nhyperstack=true\nmode=composite\nloop=false\n"
    with tifffile.TiffWriter(path) as writer:
        for channel, (one, colour) in enumerate(((ELSE, 1), (pixels, 0))):
            shown = np.zeros((3, 256), np.uint16)
            shown[colour] = ramp
            told = {"description": description if channel == 0 else "", "metadata": None, "contiguous": False}
            writer.write(one, photometric="palette", colormap=shown, **told)
    return path


def one_directory(path: Path, pixels: Array) -> Path:
    """ImageJ beyond 4 GB: one directory, and all planes behind it; the second one is ours."""
    path = tiff(path, pixels, description="ImageJ=1.53t\nimages=3\nslices=3\nloop=false\n")
    path.write_bytes(path.read_bytes() + pixels.tobytes() + np.zeros_like(pixels).tobytes())
    return path


def pyramid(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".tif")
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, photometric="minisblack", metadata=None)
        writer.write(pixels[::2, ::2], photometric="minisblack", metadata=None, subfiletype=1)
        writer.write(pixels[::4, ::4], photometric="minisblack", metadata=None, subfiletype=1)
    return path


def subifd_pyramid(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".tif")
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, photometric="minisblack", subifds=1)
        writer.write(pixels[::2, ::2], photometric="minisblack", subfiletype=1)
    return path


def ome_with_macro(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".ome.tif")
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, photometric="minisblack", metadata={"Name": "scan"})
        writer.write(pixels[:7, :9].copy(), photometric="minisblack", metadata={"Name": "macro"})
    return path


def two_channels(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".ome.tif")
    other = ELSE if pixels.dtype == ELSE.dtype else pixels
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, np.stack([other, pixels]), photometric="minisblack", ome=True, metadata=metadata)
    return path


def rgba(path: Path, pixels: Array) -> Path:
    return png(path, Image.fromarray(np.dstack([pixels] * 3 + [np.full_like(pixels, 255)])))


def transparent(path: Path, pixels: Array) -> Path:
    return png(path, Image.fromarray(np.dstack([pixels] * 3 + [ELSE])))


def colours(path: Path, pixels: Array) -> Path:
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 1], [9, 9, 255]], np.uint8)
    if pixels.max() > 3:
        return png(path, Image.fromarray(np.dstack([pixels, ELSE, pixels])))
    return png(path, Image.fromarray(table[pixels]))


def jpeg(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".jpg")
    exif = Image.Exif()
    exif[274] = 8
    smooth = pixels if pixels.max() < 8 else np.full_like(pixels, 77)
    Image.fromarray(np.ascontiguousarray(stored(8, smooth))).save(path, quality=100, exif=exif)
    return path


def sixteen_bit_colours(path: Path, pixels: Array) -> Path:
    """RGB PNG of 16 bits, of which Pillow would keep 8."""
    wide = np.dstack([pixels.astype(">u2") * (1 if pixels.max() < 8 else 257)] * 3)
    return png_of(path, [row.tobytes() for row in wide], pixels.shape[1], bits=16, colour=2)


def few_bits_png(bits: int) -> Callable[[Path, Array], Path]:
    """Grey PNG of fewer than 8 bits, several pixels a byte, the first one highest."""

    def write(path: Path, pixels: Array) -> Path:
        stored = pixels if pixels.max() < 2**bits else np.round(pixels / 255 * (2**bits - 1)).astype(np.uint8)
        rows = np.unpackbits(stored[..., None], axis=-1)[..., 8 - bits :].reshape(len(stored), -1)
        return png_of(path, [np.packbits(row).tobytes() for row in rows], pixels.shape[1], bits=bits, colour=0)

    return write


def png_of(path: Path, rows: list[bytes], width: int, bits: int, colour: int) -> Path:
    """A PNG file of rows as it stores them, with ``bits`` a sample and a type of colours."""
    path = path.with_suffix(".png")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    content = b"".join(b"\0" + row for row in rows)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def twelve_unsaid(path: Path, pixels: Array) -> Path:
    return tiff(path, pixels if pixels.max() < 8 else np.round(pixels / 255 * 4095).astype(np.uint16))


def twelve_said(path: Path, pixels: Array) -> Path:
    wide = pixels.astype(np.uint16) if pixels.max() < 8 else np.round(pixels / 255 * 4095).astype(np.uint16)
    return tiff(path, wide, extratags=[(341, 3, 1, 4095, True)])


def eight_unsaid(path: Path, pixels: Array) -> Path:
    return tiff(path, pixels.astype(np.uint16))


def significant_bits(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".ome.tif")
    wide = pixels.astype(np.uint16) if pixels.max() < 8 else np.round(pixels / 255 * 4095).astype(np.uint16)
    tifffile.imwrite(path, wide, photometric="minisblack", ome=True, metadata={"axes": "YX", "SignificantBits": 12})
    return path


def signed_by_imagej(path: Path, pixels: Array) -> Path:
    calibration = "ImageJ=1.53t\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
    return tiff(path, pixels.astype(np.uint16) + 32768, description=calibration)


def white_first_png(path: Path, pixels: Array) -> Path:
    """Black and white with a palette that has white first, as some programs write what they count."""
    black = pixels == 0 if pixels.max() < 8 else pixels != 77
    picture = Image.fromarray(black.astype(np.uint8), mode="P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    return png(path, picture)


def white_first_bmp(path: Path, pixels: Array) -> Path:
    path = white_first_png(path, pixels)
    Image.open(path).save(path.with_suffix(".bmp"))
    return path.with_suffix(".bmp")


def three_channels(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".tif")
    stack = np.stack([pixels, ELSE, ELSE])
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "CYX", "Labels": ["a", "b", "c"]})
    return path


def as_dtype(dtype: Any) -> Callable[[Path, Array], Path]:
    return lambda path, pixels: tiff(path, pixels.astype(dtype))


def big_endian(path: Path, pixels: Array) -> Path:
    wide = pixels.astype(np.uint16) * (1 if pixels.max() < 8 else 257)
    return tiff(path, wide, byteorder=">")


def unit_floats(path: Path, pixels: Array) -> Path:
    return tiff(path, pixels.astype(np.float32) / (1 if pixels.max() < 8 else 255))


def nifti(path: Path, pixels: Array) -> Path:
    path = path.with_suffix(".nii.gz")
    nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), path)
    return path


def min_is_white(path: Path, pixels: Array) -> Path:
    return tiff(path, 255 - pixels, photometric="miniswhite")


def animated(path: Path, pixels: Array) -> Path:
    return png(path, Image.fromarray(pixels), save_all=True, append_images=[Image.fromarray(ELSE)])


# kind, as the table calls it -> writer, what the image road does with it, what the mask road does
KINDS: dict[str, tuple[Callable[[Path, Array], Path], str, str]] = {
    "8 bits, TIFF": (lambda path, pixels: tiff(path, pixels), "same", "same"),
    "16 bits, big-endian": (big_endian, "same", "same"),
    "4 bits a sample, stated": (bits(4), "close", "same"),
    "10 bits a sample, stated": (bits(10), "close", "same"),
    "12 bits a sample, stated": (bits(12), "close", "same"),
    "14 bits a sample, stated": (bits(14), "close", "same"),
    "12 bits in 16, stated as largest sample": (twelve_said, "close", "same"),
    "4 bits a sample, PNG": (few_bits_png(4), "close", "same"),
    "12 bits in 16, unstated": (twelve_unsaid, "line: --grey_maximum 4095", "same"),
    "8 bits in 16, unstated": (eight_unsaid, "line: --grey_maximum 255", "same"),
    "12 bits in 16, stated by OME-XML": (significant_bits, "close", "same"),
    "16 bits with sign, ImageJ": (signed_by_imagej, "refused: int16 from 0 to 255.*--grey_maximum", "same"),
    "0 is white (MINISWHITE)": (min_is_white, "same", "refused: MINISWHITE"),
    "grey palette, TIFF": (grey_palette_tiff, "same", ""),
    "grey palette rising from black to white, ImageJ": (adjusted_by_imagej, "same", "same"),
    "grey palette, PNG": (grey_palette_png, "same", ""),
    "colour palette, TIFF": (label_palette_tiff, "refused: 3 channels.*--channel", "same"),
    "colour palette, PNG": (label_palette_png, "refused: channels.*--channel", "same"),
    "palette with black after another colour, PNG": (white_first_png, "two", "refused: which is the background"),
    "palette with black after another colour, BMP": (white_first_bmp, "two", "refused: which is the background"),
    "several channels with a palette each, ImageJ": (
        composite,
        r"refused: 2 channels \(0, 1\).*--channel 0 to 1",
        "refused: 2 channels",
    ),
    "ImageJ, one directory for all planes": (one_directory, "page 1", "page 1"),
    "pyramid in the chain of pages": (pyramid, "same", "same"),
    "pyramid in SubIFDs": (subifd_pyramid, "same", "same"),
    "OME-TIFF with scan and macro image": (ome_with_macro, "same", "same"),
    "several channels": (two_channels, r"refused: 2 channels \(DAPI, GFP\).*--channel 0 to 1", "refused: 2 channels"),
    "three channels": (
        three_channels,
        r"refused: 3 channels \(a, b, c\).*--channel 0 to 2",
        "refused: which one holds",
    ),
    "grey as RGBA, constant alpha": (rgba, "same", "same"),
    "grey as 16-bit RGB, PNG": (sixteen_bit_colours, "same", "same"),
    "alpha that varies": (transparent, "refused: 4 channels, .* transparency.*--channel 0", "refused: transparent"),
    "RGB colours": (colours, "refused: 3 channels.*--channel 0 to 2", "same"),
    "JPEG with orientation": (jpeg, "flat", "refused: JPEG"),
    "NIfTI": (nifti, "same", "same"),
    "float from 0 to 1": (unit_floats, "same", "same"),
    "float beyond 1": (as_dtype(np.float32), "refused: from 0 to 255.*--grey_maximum", "same"),
    "int16": (as_dtype(np.int16), "refused: --grey_maximum", "same"),
    "uint32": (as_dtype(np.uint32), "refused: --grey_maximum", "same"),
    "int8": (lambda path, pixels: tiff(path, (pixels >> 1).astype(np.int8)), "refused: --grey_maximum", ""),
    "complex": (as_dtype(np.complex64), "refused: complex64", "refused: complex64"),
    "several pictures in a PNG": (animated, "refused: 2 pictures", "refused: 2 pictures"),
    **{f"TIFF, orientation {n}": (turned_tiff(n), "same", "same") for n in range(1, 9)},
    **{f"PNG, orientation {n}": (turned_png(n), "same", "same") for n in range(1, 9)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_what_a_viewer_shows(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write, expected, _ = KINDS[kind]
    path = write(tmp_path / "image", GREY)
    if expected.startswith("refused: "):
        assert re.search(expected.removeprefix("refused: "), said := refusal(image, path), re.DOTALL), said
        assert str(path) in said
        return
    address = f"{path}#1" if expected == "page 1" else path
    assert page_shapes(path)[0][:2] == GREY.shape
    found = image(address)
    lines = [record.message for record in caplog.records if record.name.startswith("unet_paper")]
    if expected.startswith("line: "):
        assert len(lines) == 1
        assert str(path) in lines[0]
        assert expected.removeprefix("line: ") in lines[0]
        found = image(path, maximum=float(expected.rpartition(" ")[2]))
        expected = "close"
    else:
        assert not lines
    right = {"flat": np.full_like(GREY, 77), "two": np.where(GREY == 77, 255, 0)}.get(expected, GREY)
    # half a step of 4 bits, or none
    tolerance = (
        0.5 / 15 + 1e-6
        if "4 bits a" in kind
        else 1e-3
        if expected == "close"
        else 0.005
        if expected == "flat"
        else 1e-6
    )
    np.testing.assert_allclose(found, right / 255, atol=tolerance)


@pytest.mark.parametrize("kind", [kind for kind, (_, _, expected) in KINDS.items() if expected])
def test_a_mask_keeps_its_ids(kind: str, tmp_path: Path) -> None:
    write, _, expected = KINDS[kind]
    path = write(tmp_path / "mask", CELLS)
    if expected.startswith("refused: "):
        assert re.search(expected.removeprefix("refused: "), said := refusal(mask, path), re.DOTALL), said
        assert str(path) in said
        return
    found = mask(f"{path}#1" if expected == "page 1" else path)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found > 0, CELLS > 0)
    np.testing.assert_array_equal(cells(found), cells(CELLS))


def test_the_table_in_the_documentation_has_every_kind() -> None:
    text = (ROOT / "bundle" / "docs" / "images.md").read_text()
    rows = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("| ") and len(parts) == 3 and parts[0] != "kind" and set(parts[0]) != {"-"}:
            rows[parts[0]] = parts[1:]
    turns = {f"{name}, orientation {n}" for name in ("TIFF", "PNG") for n in range(1, 9)}
    assert set(KINDS) - turns | {"TIFF and PNG, orientation 1 to 8"} == set(rows)
    for kind, (_, of_image, of_mask) in KINDS.items():
        for expected, cell in zip((of_image, of_mask), rows.get(kind, ("taken", "taken")), strict=True):
            word = {"refused": "refused", "line": "one line", "": "-"}.get(expected.partition(":")[0], "taken")
            assert cell.startswith(word), (kind, cell)


# --- remedies that the refusals name ---


@pytest.mark.parametrize(
    ("kind", "settings", "right"),
    [
        ("several channels", {"channel": 1}, GREY),
        ("several channels", {"channel": "gfp"}, GREY),
        ("several channels", {"channel": "DAPI"}, ELSE),
        ("several channels with a palette each, ImageJ", {"channel": 1}, GREY),
        ("several channels with a palette each, ImageJ", {"channel": 0}, ELSE),
        ("alpha that varies", {"channel": 0}, GREY),
        ("RGB colours", {"channel": 0}, GREY),
        ("RGB colours", {"channel": "green"}, ELSE),
        ("float beyond 1", {"maximum": 255}, GREY),
        ("int16", {"maximum": 255}, GREY),
        ("uint32", {"maximum": 255}, GREY),
    ],
)
def test_what_a_refusal_recommends_works(kind: str, settings: dict[str, Any], right: Array, tmp_path: Path) -> None:
    path = KINDS[kind][0](tmp_path / "image", GREY)
    np.testing.assert_allclose(image(path, **settings), right / 255, atol=1e-6)


def test_palettes_of_channels_are_what_they_are_shown_in(tmp_path: Path) -> None:
    """Their indices are the grey values: for the reader, for the check, and in blocks."""
    path = composite(tmp_path / "a", GREY)
    both = np.dstack([ELSE, GREY])
    assert layout(path).shapes == [(20, 31, 2)]
    assert layout(path).channels == ("0", "1")
    pixels, meta = PageReader().get_data(path)
    np.testing.assert_array_equal(pixels, both)
    assert meta["channel_names"] == ["0", "1"]
    store = open_image(path)
    np.testing.assert_array_equal(store.read((), slice(None), slice(None)), np.moveaxis(both, -1, 0))
    np.testing.assert_array_equal(PageReader().get_data(f"{path}[][2:9,3:20]")[0], both[2:9, 3:20])
    case = {"image": str(path), "label": str(tiff(tmp_path / "mask", CELLS))}
    for channel, expected in ((None, both), (0, ELSE), (1, GREY)):
        seen = survey([case], channel=channel).images[0]
        assert seen.stored_channels == (2 if channel is None else 1)
        assert (seen.low, seen.median, seen.high) == pytest.approx(np.percentile(expected, (0.1, 50, 99.9)))


def test_how_an_image_was_last_looked_at_changes_nothing(tmp_path: Path) -> None:
    """One page or a stack, for the reader, in headers and in blocks; not so a table that falls, which is a negative."""
    for low, high in ((60, 120), (10, 11), (-40, 300)):
        path = adjusted_by_imagej(tmp_path / "a", GREY, low, high)
        assert layout(path).shapes == [(20, 31)]
        np.testing.assert_array_equal(PageReader().get_data(path)[0], GREY)
        np.testing.assert_array_equal(open_image(path).read((), slice(None), slice(None))[0], GREY)
    with tifffile.TiffFile(path) as file:
        shown = file.pages.first.colormap
    for number, (description, table, right) in enumerate(
        (
            ("ImageJ=1.54f\nimages=2\nslices=2\n", shown, GREY),
            ("ImageJ=1.54f\nimages=2\nslices=2\n", shown[:, ::-1], shown[0, ::-1][GREY] >> 8),
            ("", shown, shown[0][GREY] >> 8),
        )
    ):
        path = tmp_path / f"{number}.tif"
        settings = {"photometric": "palette", "colormap": table, "metadata": None}
        tifffile.imwrite(path, np.stack([ELSE, GREY]), description=description, **settings)
        np.testing.assert_array_equal(PageReader().get_data(f"{path}#1")[0], right)


def test_transparency_is_no_channel(tmp_path: Path) -> None:
    """Refused for every network, and by the check, which took it for a fourth stain; unless somebody says so."""
    path = transparent(tmp_path / "a", GREY)
    pair = png(tmp_path / "b", Image.fromarray(np.dstack([GREY, ELSE]), mode="LA"))
    four = tiff(tmp_path / "c", np.dstack([GREY, ELSE, GREY, ELSE]), photometric="rgb", extrasamples=["unassalpha"])
    shown = tmp_path / "d.png"
    picture = Image.fromarray(CELLS, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(shown, transparency=0)
    label = str(tiff(tmp_path / "mask", CELLS))
    for file, channels in ((path, 4), (pair, 2), (four, 4), (shown, 4)):
        case = {"image": str(file), "label": label}
        said = rf"{file}: {channels} channels, the last one transparency from"
        for number in (1, 3, 4):
            with pytest.raises(ValueError, match=said):
                CheckImaged("image", channels=number)(LOAD(case))
        with pytest.raises(ValueError, match=said):
            survey([case])
        # as stored
        for channel in (0, list(range(channels - 1)), list(range(channels))):
            loaded = Compose([LoadImaged("image", reader=PageReader(channel)), EnsureChannelFirstd("image")])(case)
            taken = len(channel) if isinstance(channel, list) else 1
            assert len(CheckImaged("image", channels=taken)(loaded)["image"]) == taken
            assert survey([case], channel=channel).images[0].stored_channels == taken


def test_rounding_of_floats_is_no_other_range(tmp_path: Path) -> None:
    beside = (GREY / 255).astype(np.float32) * np.float32(1 + 4e-7) - np.float32(1e-7)
    assert beside.min() < 0
    assert beside.max() > 1
    found = image(tiff(tmp_path / "a", beside))
    np.testing.assert_allclose(found, GREY / 255, atol=1e-6)
    assert found.min() == 0
    assert found.max() == 1
    assert "--grey_maximum" in refusal(image, tiff(tmp_path / "b", beside * np.float32(1.001)))


def test_negative_values_have_a_minimum(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a", GREY.astype(np.int16) * 100 - 12000)
    assert "--grey_minimum" in refusal(image, path)
    np.testing.assert_allclose(image(path, minimum=-12000, maximum=13500), GREY / 255, atol=1e-6)
    with pytest.raises(ValueError, match=r"grey_maximum=5: .*above grey_minimum=5"):
        ScaleToUnitRanged("image", minimum=5, maximum=5)


def test_several_channels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (3, 20, 31), dtype=np.uint8)
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata=names)
    for channel in ([2, 0], ["rfp", "DAPI"], ["RFP", 0]):
        pixels, meta = PageReader(channel).get_data(tmp_path / "a.ome.tif")
        np.testing.assert_array_equal(pixels, np.moveaxis(stack[[2, 0]], 0, -1))
        assert meta["channel_names"] == ["RFP", "DAPI"]
    with pytest.raises(ValueError, match="each channel once"):
        PageReader([0, "DAPI"]).get_data(tmp_path / "a.ome.tif")


def test_a_name_of_several_channels_is_none_s(tmp_path: Path) -> None:
    names = {"axes": "CYX", "Channel": {"Name": ["GFP", "GFP", "DAPI"]}}
    stack = np.stack([GREY, GREY // 2, GREY // 3])
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata=names)
    with pytest.raises(ValueError, match="2 channels are called 'gfp'; choose by number, --channel 0"):
        PageReader("gfp").get_data(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(PageReader(1).get_data(tmp_path / "a.ome.tif")[0], GREY // 2)


def test_a_number_that_another_channel_is_called_by_is_said_to_be_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Channels that a microscope counts from 1."""
    stack = np.stack([GREY, GREY // 2, GREY // 3])
    names = {"axes": "CYX", "Channel": {"Name": ["1", "2", "DAPI"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata=names)
    np.testing.assert_array_equal(PageReader(1).get_data(tmp_path / "a.ome.tif")[0], GREY)
    assert (
        "--channel 1: taken for the name of channel number 0, numbers counting from 0; --channel 2 takes" in caplog.text
    )
    caplog.clear()
    np.testing.assert_array_equal(PageReader("2").get_data(tmp_path / "a.ome.tif")[0], GREY // 2)
    assert "--channel 2: taken for the name of channel number 1" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(PageReader(0).get_data(tmp_path / "a.ome.tif")[0], GREY)
    assert "taken for" not in caplog.text


def test_more_samples_than_colours_have_numbers(tmp_path: Path) -> None:
    samples = np.stack([GREY] * 5, axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", planarconfig="contig")
    pixels, meta = PageReader().get_data(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, samples)
    assert meta["channel_names"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_colours_of_a_palette_are_in_their_order(kind: str, tmp_path: Path) -> None:
    """BMP keeps blue first."""
    picture = Image.fromarray((GREY > 100).astype(np.uint8), mode="P")
    picture.putpalette([10, 20, 30, 200, 150, 50])
    picture.save(tmp_path / f"a.{kind}")
    expected = np.where((GREY > 100)[..., None], [200, 150, 50], [10, 20, 30])
    np.testing.assert_array_equal(PageReader().get_data(tmp_path / f"a.{kind}")[0], expected)
    np.testing.assert_array_equal(PageReader("blue").get_data(tmp_path / f"a.{kind}")[0], expected[..., 2])


def test_a_channel_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = two_channels(tmp_path / "a", GREY)
    for channel in ("RFP", 2):
        with pytest.raises(RuntimeError) as caught:
            image(path, channel=channel)
        assert "it has 2 (DAPI, GFP): --channel 0 to 1" in str(caught.value.__cause__)


def test_channels_without_names_have_those_they_are_all_asked_for_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of weights whose channels have names, which are taken by them from an image that has them in another order."""
    pair = np.stack([GREY, ELSE])
    tifffile.imwrite(tmp_path / "a.tif", pair, imagej=True, metadata={"axes": "CYX"})
    pixels, _ = PageReader(["actin", "nuclei"]).get_data(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, np.moveaxis(pair, 0, -1))
    assert "channels without names are taken for actin, nuclei, in this order" in caplog.text
    with pytest.raises(ValueError, match="no channel 'actin'"):
        PageReader("actin").get_data(tmp_path / "a.tif")
    for order in (["actin", "nuclei"], ["nuclei", "actin"]):
        tifffile.imwrite(tmp_path / "b.ome.tif", pair, metadata={"axes": "CYX", "Channel": {"Name": order}})
        pixels, _ = PageReader(["nuclei", "actin"]).get_data(tmp_path / "b.ome.tif")
        expected = pair if order[0] == "nuclei" else pair[::-1]
        np.testing.assert_array_equal(pixels, np.moveaxis(expected, 0, -1))
    tifffile.imwrite(tmp_path / "b.ome.tif", pair, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    with pytest.raises(
        ValueError, match=r"no channel 'nuclei'; it has 2 \(DAPI, GFP\): --channel \"\[0, 1\]\" by number"
    ):
        PageReader(["nuclei", "actin"]).get_data(tmp_path / "b.ome.tif")


# --- axes ---


@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_pages_of_a_hyperstack_count_time_before_depth(form: str, tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (2, 3, 2, 20, 31), dtype=np.uint8)
    path = tmp_path / ("a.ome.tif" if form == "ome" else "a.tif")
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "TZCYX"}, **{form: True})
    assert page_shapes(path) == [(20, 31, 2)] * 6
    for channel in (0, 1):
        found = [image(f"{path}#{page}", channel=channel) for page in range(6)]
        np.testing.assert_allclose(found, stack[:, :, channel].reshape(6, 20, 31) / 255, atol=1e-6)


def test_other_orders_of_axes_give_the_same_pages(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (3, 2, 20, 31), dtype=np.uint8)  # Z, T
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZTYX"})
    found = [image(f"{tmp_path / 'a.ome.tif'}#{page}") for page in range(6)]
    np.testing.assert_allclose(found, stack.swapaxes(0, 1).reshape(6, 20, 31) / 255, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5), (1, 5), (2, 3, 5), (3, 1)], ids=str)
@pytest.mark.parametrize("colours", [False, True])
def test_axes_that_nobody_names_are_pages_in_order(shape: tuple[int, ...], colours: bool, tmp_path: Path) -> None:
    """As of a stack with one such axis."""
    stack = RNG.integers(0, 256, (*shape, 20, 31, *([3] if colours else [])), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack)
    one = stack.reshape(-1, *stack.shape[len(shape) :])
    found = layout(tmp_path / "a.tif")
    assert (found.axes, found.sizes) == ("Q", (len(one),))
    assert found.shapes == len(one) * [one.shape[1:]]
    for number, right in enumerate(one):
        np.testing.assert_array_equal(PageReader().get_data(f"{tmp_path / 'a.tif'}#{number}")[0], right)


def test_an_axis_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """And axes without names are in blocks, where a plane is a time and a depth."""
    stack = RNG.integers(0, 256, (2, 5, 20, 31), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "TTYX"})
    with pytest.raises(ValueError, match=r"a.tif: axes TTYX, of which one is there twice; save it with each once"):
        page_shapes(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", stack)
    with pytest.raises(ValueError, match=r"a.tif: axes QQYX, expected Y, X and T, C, Z .* each once; save it by tif"):
        open_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata={"axes": "TZYX"})
    assert layout(tmp_path / "a.tif").sizes == (2, 5)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read((1, 3), slice(None), slice(None))[0], stack[1, 3])


def test_channels_of_stacks_that_stand_last_are_named(tmp_path: Path) -> None:
    stack = RNG.random((4, 20, 31, 2)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(ValueError, match=r"an image \(4, 20, 31, 2\) whose last .* axes ZCYX, .*'axes': 'ZCYX'"):
        page_shapes(tmp_path / "a.tif")
    before = np.moveaxis(stack, -1, 1)
    tifffile.imwrite(tmp_path / "a.tif", before, photometric="minisblack", metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(PageReader().get_data(f"{tmp_path / 'a.tif'}#2")[0], stack[2])


def test_rows_with_channels_are_no_stack(tmp_path: Path) -> None:
    """What tifffile makes of floating point with the channels last, where nobody says so."""
    colours = np.dstack([GREY] * 3).astype(np.float32) / 255
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="minisblack")
    with pytest.raises(ValueError, match=r"a.tif: 20 pages of 31 x 3 px: an image \(20, 31, 3\) whose last axis is"):
        page_shapes(tmp_path / "a.tif")
    first = np.moveaxis(colours, -1, 0)
    said = refusal(image, tmp_path / "a.tif")
    assert "by tifffile with photometric='minisblack', metadata={'axes': 'CYX'}" in said
    for dtype in (np.float32, np.uint8):
        first = first.astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", first, photometric="minisblack", metadata={"axes": "CYX"})
        np.testing.assert_array_equal(PageReader().get_data(tmp_path / "a.tif")[0], np.moveaxis(first, 0, -1))


SAMPLES = [
    # written as the samples of one RGB page, (3 or 4, H, W), or of several
    ("CYX", ()),
    ("ZYX", ("Z",)),
    ("TYX", ("T",)),
    ("QYX", ("Q",)),
    ("YXC", ()),
    ("TCYX", ("T",)),
    ("CZYX", ("Z",)),
    ("ZTYX", ("T", "Z")),
    ("TZCYX", ("T", "Z")),
]


@pytest.mark.parametrize("arguments", [{}, {"compression": "zlib", "rowsperstrip": 7}], ids=str)
@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize(("axes", "pages"), SAMPLES)
def test_samples_are_the_axis_that_a_file_says(
    axes: str, pages: tuple[str, ...], samples: int, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """tifffile writes planes of 8 and 16 bits, three or four of them, as RGB; the fourth is no transparency."""
    sizes = dict(zip(reversed(axes.replace("YX", "")), (samples, 2, 5), strict=False)) | {"Y": 20, "X": 31}
    stack = RNG.integers(1, 65536, [sizes[axis] for axis in axes], dtype=np.uint16)
    planar = {} if axes.endswith("C") else {"planarconfig": "separate"}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="rgb", metadata={"axes": axes}, **planar, **arguments)
    channels = sizes.get("C", 1)
    found = layout(path)
    assert (found.axes, found.sizes) == ("".join(pages), tuple(sizes[axis] for axis in pages))
    assert found.channels == (tuple(map(str, range(channels))) if "C" in axes else ())
    # T, Z or Q, C last
    order = [axes.index(axis) for axis in (*pages, "Y", "X", *("C" if "C" in axes else ""))]
    right = stack.transpose(order).reshape(-1, 20, 31, *((channels,) if "C" in axes else ()))
    assert found.shapes == [one.shape for one in right]
    for number, one in enumerate(right):
        np.testing.assert_array_equal(PageReader().get_data(f"{path}#{number}")[0], one)
    store = open_image(path)
    assert store.channels == channels
    assert store.channel_names == found.channels
    planes = sorted(store.planes(), key=lambda plane: plane[::-1] if axes == "ZTYX" else plane)
    for plane, one in zip(planes, right, strict=True):
        np.testing.assert_array_equal(
            np.moveaxis(store.read(plane, slice(None), slice(None)), 0, -1), one.reshape(20, 31, channels)
        )


def test_a_mask_of_three_planes_is_no_colours(tmp_path: Path) -> None:
    ids = np.stack([CELLS, CELLS, CELLS])
    tifffile.imwrite(tmp_path / "z.tif", ids, photometric="rgb", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(LabelReader().get_data(f"{tmp_path / 'z.tif'}#2")[0], CELLS)
    tifffile.imwrite(tmp_path / "c.tif", ids, photometric="rgb", metadata={"axes": "CYX"})
    assert re.search(r"a mask of 3 channels \(0, 1, 2\): which one holds ids", refusal(mask, tmp_path / "c.tif"))


def test_rows_with_many_channels_are_no_stack_and_narrow_pages_are(tmp_path: Path) -> None:
    """Five stains, the last axis; and a channel of a mother machine, 20 px wide, over time."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 48, 5), np.float32), photometric="minisblack")
    with pytest.raises(ValueError, match=r"40 pages of 48 x 5 px: an image \(40, 48, 5\) whose last axis is"):
        page_shapes(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((200, 90, 20), np.float32), photometric="minisblack")
    assert page_shapes(tmp_path / "b.tif") == 200 * [(90, 20)]


@pytest.mark.parametrize(("kind", "channels"), [("unspecified", 2), ("unassalpha", None), ("assocalpha", None)])
def test_a_second_sample_is_a_channel_unless_it_says_that_it_is_transparency(
    kind: str, channels: int | None, tmp_path: Path
) -> None:
    """One stain may be dark all over in one image of a set."""
    samples = np.stack([GREY, np.zeros_like(GREY)], axis=-1)
    settings = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [kind]}
    tifffile.imwrite(tmp_path / "a.tif", samples, **settings)
    pixels, _ = PageReader().get_data(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, samples if channels else GREY)


def test_planes_that_a_description_promises_must_be_there(tmp_path: Path) -> None:
    path = one_directory(tmp_path / "a", GREY)
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal(image, path)
    lone = tiff(tmp_path / "b", GREY, description="ImageJ=1.53t\nimages=4\n")
    assert "4 planes" in refusal(image, lone)


def test_pages_of_a_nifti_volume(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (4, 20, 31), dtype=np.uint8)
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(stack.T, affine), tmp_path / "a.nii.gz")
    for page in range(4):
        np.testing.assert_allclose(image(f"{tmp_path / 'a.nii.gz'}#{page}"), stack[page] / 255, atol=1e-6)
    _, meta = PageReader().get_data(f"{tmp_path / 'a.nii.gz'}#3")
    np.testing.assert_allclose(meta["affine"] @ [4, 5, 0, 1], affine @ [5, 4, 3, 1])


def test_a_nifti_image_is_scaled_as_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    # x to the left and y up, as most programs write it: which voxel is which does not change
    nibabel.save(nibabel.Nifti1Image(GREY.T, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 2.0, 5.0)
    path.write_bytes(content)
    np.testing.assert_allclose(image(path, minimum=5, maximum=515), GREY / 255, atol=1e-6)


def test_of_an_ome_tiff_of_several_files_each_is_an_image(tmp_path: Path) -> None:
    planes = "".join(
        f'<TiffData IFD="0" FirstT="{t}" FirstC="0" FirstZ="0" PlaneCount="1">'
        f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData>'
        for t, name in enumerate("ab")
    )
    for name, pixels in (("a", GREY), ("b", ELSE)):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{name}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="31" SizeY="20" '
            f'SizeZ="1" SizeC="1" SizeT="2">{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", pixels, photometric="minisblack", metadata=None, description=description
        )
    for name, pixels in (("a", GREY), ("b", ELSE)):
        path = tmp_path / f"{name}.ome.tif"
        assert page_shapes(path) == [(20, 31)]
        np.testing.assert_allclose(image(path), pixels / 255, atol=1e-6)


# --- encodings that change nothing ---


@pytest.mark.parametrize(
    "arguments",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "byteorder": ">"},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"compression": "lerc"},
        {"compression": "jpeg2000"},
        {"tile": (16, 16), "compression": "lzw"},
        {"tile": (16, 16), "bigtiff": True},
        {"rowsperstrip": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_encodings_of_tiff_change_nothing(dtype: Any, arguments: dict[str, Any], tmp_path: Path) -> None:
    grey = GREY.astype(dtype) * (1 if dtype == np.uint8 else 257)
    np.testing.assert_allclose(image(tiff(tmp_path / "a", grey, **arguments)), GREY / 255, atol=1e-6)
    np.testing.assert_array_equal(cells(mask(tiff(tmp_path / "b", CELLS.astype(dtype), **arguments))), cells(CELLS))


def test_an_image_of_one_pixel_is_an_image(tmp_path: Path) -> None:
    for path in (tiff(tmp_path / "a", GREY[:1, 1:2]), png(tmp_path / "a", Image.fromarray(GREY[:1, 1:2]))):
        assert page_shapes(path) == [(1, 1)]
        assert image(path).tolist() == [[1.0]]


def test_colours_of_printers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.dstack([GREY] * 4), mode="CMYK").save(path)
    assert re.search(r"a\.jpg: colours as CMYK; save it as grey or RGB", refusal(image, path))
    separated = tiff(tmp_path / "b", np.dstack([GREY] * 4), photometric="separated", planarconfig="contig")
    assert "colours as SEPARATED; save it as grey or RGB" in refusal(image, separated)


# --- damage ---


def test_a_checksum_of_gzip_is_read(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a", np.tile(GREY, (9, 9)))
    raw = gzip.decompress(path.read_bytes())
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=0) as file:
        file.write(raw)
    damaged = bytearray(packed.getvalue())
    damaged[len(damaged) // 2] ^= 4  # a pixel: nothing but the sum at the end can tell
    path.write_bytes(damaged)
    assert f"{path}: cannot be read: CRC" in refusal(image, path)


def test_a_checksum_of_png_is_read(tmp_path: Path) -> None:
    path = png(tmp_path / "a", Image.fromarray(GREY), compress_level=0)
    damaged = bytearray(path.read_bytes())
    damaged[300] ^= 1
    path.write_bytes(damaged)
    assert str(path) in refusal(image, path)


def test_what_the_decoder_only_logs_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    path = tiff(tmp_path / "a", GREY, software="somebody")
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags["Software"]
    damaged = bytearray(path.read_bytes())
    damaged[tag.offset + 8 : tag.offset + 12] = struct.pack("<I", 2**31)  # its value lies beyond the end of the file
    path.write_bytes(damaged)
    assert f"{path}: cannot be read" in refusal(image, path)


def test_missing_strips_are_no_zeros(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a", GREY, rowsperstrip=5, compression="zlib")
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags["StripByteCounts"]
    damaged = bytearray(path.read_bytes())
    damaged[tag.valueoffset : tag.valueoffset + tag.count * (2 if tag.dtype == 3 else 4)] = bytes(
        tag.count * (2 if tag.dtype == 3 else 4)
    )
    path.write_bytes(damaged)
    assert str(path) in refusal(image, path)


def test_a_small_file_that_claims_much_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = png(tmp_path / "a", Image.fromarray(GREY))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert re.search(r"a\.png: .*claims 60000 x 60000 px", refusal(image, path))
    with tifffile.TiffFile(wide := tiff(tmp_path / "b", GREY, compression="zlib")) as file:
        tags = file.pages.first.tags
        places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
        sizes = [tags[name].dtype for name in ("ImageWidth", "ImageLength")]
    content = bytearray(wide.read_bytes())
    for place, kind in zip(places, sizes, strict=True):
        content[place : place + (2 if kind == 3 else 4)] = struct.pack("<H" if kind == 3 else "<I", 60_000)
    wide.write_bytes(content)
    assert "b.tif" in refusal(image, wide)
    volume = nifti(tmp_path / "c", GREY)
    raw = bytearray(gzip.decompress(volume.read_bytes()))
    raw[42:46] = struct.pack("<hh", 30_000, 30_000)
    volume.write_bytes(gzip.compress(bytes(raw)))
    assert re.search(r"c\.nii\.gz: .*claims 30000 x 30000 px", refusal(image, volume))


# --- masks that would be learnt wrongly ---


def test_interpolated_rims_are_no_cells(tmp_path: Path) -> None:
    rows, columns = np.indices((96, 96))
    distance = np.minimum(np.hypot(rows - 30, columns - 30) - 18, np.hypot(rows - 65, columns - 60) - 22)
    soft = np.clip(255 * (0.5 - distance / 3), 0, 255).astype(np.uint8)
    assert "rims" in refusal(mask, tiff(tmp_path / "a", soft))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_rim_of_a_single_cell_is_none_either(scale: float, tmp_path: Path) -> None:
    """Its greys need not lie in pieces: they are thin and lie along the cell."""
    rows, columns = np.indices((96, 96))
    disc = np.where((rows - 47.3) ** 2 + (columns - 41.8) ** 2 <= 81, 255, 0).astype(np.uint8)
    side = int(96 * scale)
    soft = np.asarray(Image.fromarray(disc).resize((side, side), Image.Resampling.BILINEAR))
    assert len(np.unique(soft)) > 4
    assert "rims" in refusal(mask, tiff(tmp_path / "a", soft))


def test_a_border_with_an_id_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Programs that draw outlines between cells give them a value of their own, mostly 255."""
    padded = np.pad(CELLS, 2)
    rim = ndimage.binary_dilation(padded > 0, np.ones((3, 3))) & (padded == 0)
    path = tiff(tmp_path / "a", np.where(rim, 255, padded).astype(np.uint8))
    mask(path)
    assert f"{path}: 255 is nowhere 3 px wide" in caplog.text
    assert "--ignore_value 255" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(cells(np.maximum(mask(path, ignore_value=255), 0)), cells(padded))
    # cells that touch, and a thin one between others, are none
    touching = np.zeros((40, 40), np.uint8)
    touching[4:20, 4:20], touching[4:20, 20:30], touching[20:22, 4:30], touching[30:36, 5:20] = 1, 2, 3, 4
    assert len(np.unique(mask(tiff(tmp_path / "b", touching)))) == 5
    assert "rim" not in caplog.text.replace("3 is nowhere", "")


def test_the_largest_number_of_its_bits_among_low_ids_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Many programs write it for what nobody has looked at."""
    unknown = CELLS.astype(np.uint16)
    unknown[16:, 20:] = 65535
    path = tiff(tmp_path / "a", unknown)
    mask(path)
    assert (
        f"{path}: 65535 is far above its other ids, 1 to 3, taken as one cell: say --ignore_value 65535" in caplog.text
    )
    caplog.clear()
    np.testing.assert_array_equal(mask(path, ignore_value=65535) == -1, unknown == 65535)
    mask(tiff(tmp_path / "b", CELLS * 80))  # ids with gaps
    mask(tiff(tmp_path / "c", np.where(CELLS > 0, 255, 0).astype(np.uint8)))
    assert "far above" not in caplog.text


def test_a_value_is_unknown_or_background_and_not_both() -> None:
    for annotation in ("instances", "classes"):
        with pytest.raises(ValueError, match=r"ignore_value=0: is background_value, too, .*--background_value 1"):
            InstancesFromAnnotationd(annotation=annotation, ignore_value=0)
    sparse = InstancesFromAnnotationd(annotation="instances", ignore_value=0, background_value=1)
    found = sparse({"label": np.array([[[0, 1, 2, 3]]])})["label"]
    np.testing.assert_array_equal(found, [[[-1, 0, 2, 3]]])


def test_classes_are_no_ids(tmp_path: Path) -> None:
    classes = np.zeros((60, 60), np.uint8)
    for row, column in ((5, 5), (5, 30), (30, 5), (30, 30)):
        classes[row : row + 15, column : column + 15] = 2
        classes[row + 2 : row + 13, column + 2 : column + 13] = 1
    assert "classes" in refusal(mask, tiff(tmp_path / "a", classes))


def test_background_of_another_value(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a", CELLS + 1)
    assert "say --background_value 1" in refusal(mask, path)
    np.testing.assert_array_equal(cells(mask(path, background_value=1)), cells(CELLS))
    everywhere = mask(path, background_value=-1)
    assert (everywhere > 0).all()
    assert len(np.unique(everywhere)) == 4
    ilastik = tiff(tmp_path / "b", (CELLS > 0).astype(np.uint8) + 1)
    assert "say --background_value 1" in refusal(lambda p: mask(p, annotation="binary"), ilastik)
    found = mask(ilastik, annotation="binary", background_value=1)
    np.testing.assert_array_equal(found > 0, CELLS > 0)


@pytest.mark.parametrize("first", [20_000_001, 2**32 - 4])
def test_large_ids_stay_apart(first: int, tmp_path: Path) -> None:
    large = np.where(CELLS > 0, CELLS.astype(np.int64) + first - 1, 0).astype(np.uint32)
    np.testing.assert_array_equal(cells(mask(tiff(tmp_path / "a", large))), cells(CELLS))
    assert "neighbouring ids" in refusal(mask, tiff(tmp_path / "b", large.astype(np.float32)))


def test_masks_that_tell_nothing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    black, white = tiff(tmp_path / "black", CELLS * 0), tiff(tmp_path / "white", CELLS * 0 + 255)
    assert not mask(black).any()
    assert (mask(white) == 1).all() or (mask(white) == 255).all()
    assert f"{black}: no cell is drawn" in caplog.text
    assert f"{white}: every pixel is 255" in caplog.text


def test_one_bit_masks(tmp_path: Path) -> None:
    drawn = CELLS > 0
    for path in (png(tmp_path / "a", Image.fromarray(drawn)), tiff(tmp_path / "b", drawn)):
        np.testing.assert_array_equal(mask(path, annotation="binary") > 0, drawn)
        np.testing.assert_array_equal(image(path), drawn)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_png_of_few_bits_is_an_image_as_shown_and_a_mask_as_stored(bits: int, tmp_path: Path) -> None:
    """Classes 0, 1 and 2 had been 0, 85 and 170."""
    path = few_bits_png(bits)(tmp_path / "a", CELLS)
    np.testing.assert_array_equal(LabelReader().get_data(path)[0], CELLS)
    classes = few_bits_png(bits)(tmp_path / "b", np.minimum(CELLS, 2))
    found = mask(classes, annotation="classes", num_classes=3)
    np.testing.assert_array_equal(found > 0, CELLS > 0)
    pixels, meta = PageReader().get_data(path)
    np.testing.assert_array_equal(pixels, CELLS * (255 // (2**bits - 1)))
    assert pixels.dtype == np.uint8
    assert "full_scale" not in meta
    assert page_shapes(path) == [pixels.shape]


def test_a_jpeg_mask_is_refused_before_work(tmp_path: Path) -> None:
    picture, label = tiff(tmp_path / "a", GREY), jpeg(tmp_path / "b", CELLS)
    with pytest.raises(ValueError, match=r"b\.jpg: a mask in JPEG"):
        pairs(picture, label)


def test_a_png_that_states_fewer_bits_is_scaled_to_16_already(tmp_path: Path) -> None:
    """The PNG specification scales samples up to the depth of the file; sBIT only says how many bits they had."""
    picture = Image.fromarray(GREY.astype(np.uint16) * 257)
    info = PngImagePlugin.PngInfo()
    info.add(b"sBIT", b"\x0c")
    np.testing.assert_allclose(image(png(tmp_path / "a", picture, pnginfo=info)), GREY / 255, atol=1e-6)

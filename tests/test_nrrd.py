"""NRRD, Slicer's format: the same pixels and places as NIfTI, and segmentations as label images."""

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

from unet_paper.data.datasets import images, pairs
from unet_paper.data.pixel_size import micrometres
from unet_paper.data.reader import LabelReader, PageReader, layout, page_shapes

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)  # rows, columns


def write(path: Path, array: Any, **header: Any) -> Path:
    """An array (x, y, z) as Slicer writes it."""
    nrrd.write(str(path), array, header, index_order="F")
    return path


@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_plane_has_rows_first(encoding: str, dtype: Any, tmp_path: Path) -> None:
    for name, array in (("plane", GREY.T), ("volume", GREY.T[..., None])):
        path = write(tmp_path / f"{name}.nrrd", array.astype(dtype), encoding=encoding)
        assert page_shapes(path) == [(2, 3)]
        pixels, meta = PageReader().get_data(str(path))
        np.testing.assert_array_equal(pixels, GREY)
        assert meta["stored_dtype"] == np.dtype(dtype).name


def test_it_lies_where_the_same_nifti_file_lies(tmp_path: Path) -> None:
    affine = np.array([[0.5, 0, 0, 10], [0, 0.25, 0, -20], [0, 0, 2.0, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(GREY.T[..., None], affine), tmp_path / "a.nii.gz")
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    write(tmp_path / "a.nrrd", GREY.T[..., None], **header, kinds=["domain"] * 3)
    found = PageReader().get_data(str(tmp_path / "a.nrrd"))[1]["affine"]
    np.testing.assert_allclose(found, PageReader().get_data(str(tmp_path / "a.nii.gz"))[1]["affine"])


def test_planes_are_pages(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", np.stack([GREY.T, GREY.T + 10], axis=-1))
    assert layout(path).sizes == (2,)
    assert [case["image"] for case in images(path)] == [f"{path}#0", f"{path}#1"]
    np.testing.assert_array_equal(PageReader().get_data(f"{path}#1")[0], GREY + 10)
    with pytest.raises(ValueError, match="a stack of 2 pages"):
        PageReader().get_data(str(path))


def test_colours_are_channels(tmp_path: Path) -> None:
    colours = np.stack([GREY.T, GREY.T + 10, GREY.T + 20])
    path = write(tmp_path / "a.nrrd", colours, kinds=["RGB-color", "domain", "domain"])
    assert page_shapes(path) == [(2, 3, 3)]
    np.testing.assert_array_equal(PageReader().get_data(str(path))[0], np.stack([GREY, GREY + 10, GREY + 20], axis=-1))


@pytest.mark.parametrize("kind", ["RGB-color", "list", "time"])
def test_channels_and_times_are_no_planes(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", np.stack([GREY.T] * 3, axis=-1), kinds=["domain", "domain", kind])
    with pytest.raises(ValueError, match=rf"a.nrrd: axes of kinds domain domain {kind.lower()}: channels, or times"):
        layout(path)


def test_a_slice_across_is_no_stack_of_rows(tmp_path: Path) -> None:
    """A volume's slice along y, of which each row would be an image, in either format of volumes."""
    across = np.zeros((40, 1, 30), np.uint8)
    nibabel.save(nibabel.Nifti1Image(across, np.eye(4)), tmp_path / "a.nii.gz")
    for path in (write(tmp_path / "a.nrrd", across), tmp_path / "a.nii.gz"):
        with pytest.raises(ValueError, match="30 planes of 1 x 40 px: a slice along another axis than z"):
            layout(path)


def test_the_size_of_a_pixel_is_kept_where_its_unit_is_told(tmp_path: Path) -> None:
    directions = {"space dimension": 2, "space directions": [[0.5, 0], [0, 0.25]]}
    told = write(tmp_path / "a.nrrd", GREY.T, **directions, **{"space units": ["um", "um"]})
    spaced = write(tmp_path / "b.nrrd", GREY.T, spacings=[0.5, 0.25], units=["um", "um"])
    untold = write(tmp_path / "c.nrrd", GREY.T, spacings=[0.5, 0.25])
    assert [micrometres(layout(path)) for path in (told, spaced, untold)] == [(0.25, 0.5), (0.25, 0.5), None]


def test_a_segmentation_in_one_layer_keeps_its_values_and_its_place(tmp_path: Path) -> None:
    stored = np.array([[0, 7], [5, 0]], np.uint8)  # rows, columns
    path = write(
        tmp_path / "a.seg.nrrd",
        stored.T[..., None],
        Segment0_ID="a", Segment0_LabelValue="7", Segment0_Layer="0",
        Segment1_ID="b", Segment1_LabelValue="5", Segment1_Layer="0",
        Segmentation_ReferenceImageExtentOffset="2 1 0",
    )  # fmt: skip
    assert page_shapes(path) == [(3, 4)]
    assert LabelReader().get_data(str(path))[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 7], [0, 0, 5, 0]]


def test_segments_of_several_layers_are_numbered(tmp_path: Path) -> None:
    layers = np.zeros((2, 3, 2, 1), np.uint8)  # layer, x, y, z
    layers[0, :2, 0], layers[1, 1:, 0] = 1, 1
    layers[0, 2, 1] = 2
    path = write(
        tmp_path / "a.seg.nrrd",
        layers,
        kinds=["list", "domain", "domain", "domain"],
        Segment0_ID="a", Segment0_LabelValue="1", Segment0_Layer="0",
        Segment1_ID="b", Segment1_LabelValue="2", Segment1_Layer="0",
        Segment2_ID="c", Segment2_LabelValue="1", Segment2_Layer="1",
    )  # fmt: skip
    assert LabelReader().get_data(str(path))[0].tolist() == [[1, 3, 3], [0, 0, 2]]


def test_it_pairs_with_images_of_other_formats(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    label = write(tmp_path / "a.nrrd", GREY.T)
    assert pairs(tmp_path / "a.tif", label) == [{"image": str(tmp_path / "a.tif"), "label": str(label)}]
    turned = write(tmp_path / "b.nrrd", GREY)
    with pytest.raises(ValueError, match="one size"):
        pairs(tmp_path / "a.tif", turned)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"NRRD0004\n", "cannot be read"),
        (b"no NRRD", "cannot be read"),
        (b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: raw\n\nxy", "cannot be read"),
        (b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: /etc/passwd\n\n", "another file"),
        (b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 60000 60000\nencoding: gzip\n\nxy", "claims"),
        (b"NRRD0004\ntype: uint8\ndimension: 1\nsizes: 4\nencoding: raw\n\nabcd", "expected planes"),
    ],
)
def test_what_is_damaged_or_points_elsewhere_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(ValueError, match=says) as info:
        PageReader().get_data(str(tmp_path / "a.nrrd"))
    assert "a.nrrd" in str(info.value)

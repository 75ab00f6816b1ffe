"""Reading image files, and what bad ones get."""

import logging
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImage
from PIL import Image

from unet_paper.data.reader import CheckImaged, PageReader, page_shapes, split_page
from unet_paper.data.unit_range import ScaleToUnitRanged

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)  # not square: a transposition shows
STACK = RNG.integers(0, 256, (5, 20, 31), dtype=np.uint8)


def load(path: Any, **arguments: Any) -> MetaTensor:
    pipeline = Compose([LoadImaged("image", reader=PageReader(), **arguments), EnsureChannelFirstd("image")])
    return pipeline({"image": str(path)})["image"]


def message(error: BaseException | None) -> str:
    """All messages of a chain of exceptions, as a user sees them in the traceback."""
    lines = []
    while error is not None:
        lines.append(str(error))
        error = error.__cause__
    return "\n".join(lines)


def refusal(path: Any) -> str:
    with pytest.raises(RuntimeError) as caught:
        load(path)
    return message(caught.value)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", compression="lzw")
    return path


# --- what is read ---


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.png", "a.bmp"])
def test_rows_come_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "tif" in name.lower():
        tifffile.imwrite(path, GREY)
    else:
        Image.fromarray(GREY).save(path)
    image = load(path)
    assert image.shape == (1, 20, 31)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0].numpy(), GREY)
    np.testing.assert_array_equal(image.affine.numpy(), np.eye(4))


def test_jpeg_rows_come_first(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 248, 8, dtype=np.uint8), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(load(tmp_path / "a.jpg")[0].numpy(), ramp, atol=4)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_page_is_the_page_that_was_asked_for(tmp_path: Path, compression: str | None, dtype: type) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK.astype(dtype), photometric="minisblack", compression=compression)
    for page in range(len(STACK)):
        np.testing.assert_array_equal(load(f"{path}#{page}")[0].numpy(), STACK[page])


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    wide = RNG.integers(0, 65536, (6, 7), dtype=np.uint16)
    wide[0, 0] = 65535
    tifffile.imwrite(tmp_path / "a.tif", wide)
    Image.fromarray(wide).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        image = load(tmp_path / name)
        np.testing.assert_array_equal(image[0].numpy(), wide)
        assert image.meta["stored_dtype"] == "uint16"


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_colour_becomes_channels(tmp_path: Path, planes: str) -> None:
    colour = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    pixels = colour if planes == "contig" else np.moveaxis(colour, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig=planes)
    Image.fromarray(colour).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        image = load(tmp_path / name)
        np.testing.assert_array_equal(np.moveaxis(image.numpy(), 0, -1), colour)
        assert page_shapes(tmp_path / name) == [(20, 31, 3)]


def test_one_bit_images_have_the_full_scale(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png")[0].numpy(), np.where(GREY > 99, 255, 0))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("trailing", [(), (1,), (1, 1)])
def test_nifti_x_is_the_column(tmp_path: Path, ending: str, trailing: tuple[int, ...]) -> None:
    path = tmp_path / f"a{ending}"
    affine = np.diag([2.0, 3.0, 1.0, 1.0])
    affine[:3, 3] = 7, 8, 9
    nibabel.save(nibabel.Nifti1Image(GREY.T.reshape(31, 20, *trailing), affine), path)
    image = load(path)
    np.testing.assert_array_equal(image[0].numpy(), GREY)
    assert page_shapes(path) == [(20, 31)]
    # pixel (row 4, column 5) lies where the file puts voxel (x 5, y 4)
    np.testing.assert_allclose(image.affine.numpy() @ [4, 5, 0, 1], affine @ [5, 4, 0, 1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pages=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), big=st.booleans())
def test_headers_tell_what_tifffile_reads(tmp_path: Path, pages: int, height: int, width: int, big: bool) -> None:
    path = tmp_path / "x.tif"
    pixels = np.arange(pages * height * width, dtype=np.uint16).reshape(pages, height, width)
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=">" if big else "<") as writer:
        for plane in pixels:
            writer.write(plane, photometric="minisblack", contiguous=False)
    assert page_shapes(path) == [(height, width)] * pages
    array, meta = PageReader().get_data(PageReader().read(f"{path}#{pages - 1}"))
    np.testing.assert_array_equal(array, pixels[-1])
    assert meta["spatial_shape"].tolist() == [height, width]


def test_only_a_tiff_has_pages() -> None:
    assert split_page("a/b.tif#12") == (Path("a/b.tif"), 12)
    assert split_page("a/b.TIFF#0") == (Path("a/b.TIFF"), 0)
    for whole in ("b.tif", "b.tif#", "b.tif#x", "b#1.tif", "b.png#1"):
        assert split_page(whole) == (Path(whole), None)


def test_real_slices_are_what_tifffile_reads(real_data: Path) -> None:
    path = real_data / "isbi2012" / "train-volume.tif"
    whole = tifffile.imread(path)
    assert page_shapes(path) == [whole.shape[1:]] * len(whole)
    for page in (0, len(whole) - 1):
        np.testing.assert_array_equal(load(f"{path}#{page}")[0].numpy(), whole[page])


def test_predictions_of_pages_are_saved_under_different_names(stack: Path, tmp_path: Path) -> None:
    pipeline = Compose([LoadImaged("image", reader=PageReader()), EnsureChannelFirstd("image")])
    save = SaveImage(
        output_dir=tmp_path / "out", output_ext=".png", separate_folder=False, print_log=False, resample=False
    )
    for batch in DataLoader(Dataset([{"image": f"{stack}#{page}"} for page in range(3)], pipeline), batch_size=1):
        for item in decollate_batch(batch):
            save(item["image"])
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"stack_trans_{page}.png" for page in range(3)]


# --- what is refused ---


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'no.tif'}: no such file" in refusal(tmp_path / "no.tif")
    assert f"{tmp_path / 'no.tif'}: no such file" in refusal(f"{tmp_path / 'no.tif'}#3")
    with pytest.raises(FileNotFoundError, match="no such file"):
        page_shapes(tmp_path / "no.png")


def test_a_stack_without_a_page_says_how(stack: Path) -> None:
    said = refusal(stack)
    assert f"{stack}: a stack of 5 pages" in said
    assert "stack.tif#0 to stack.tif#4" in said


def test_a_page_out_of_range_is_named(stack: Path) -> None:
    assert f"{stack}#5: page out of range; the file has pages 0 to 4" in refusal(f"{stack}#5")


def test_an_unknown_extension_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"x")
    said = refusal(tmp_path / "a.xyz")
    assert f"{tmp_path / 'a.xyz'}: unknown extension" in said
    assert ".tif" in said
    assert ".nii.gz" in said
    assert not PageReader().verify_suffix("a.xyz")
    assert PageReader().verify_suffix(["a.tif#3", "b.nii.gz"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 0.9999), compression=st.sampled_from([None, "lzw"]))
def test_a_truncated_stack_is_refused_or_has_lost_no_pixel(
    tmp_path: Path, kept: float, compression: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    path = tmp_path / "t.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", compression=compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    try:
        shapes = page_shapes(path)
    except ValueError:
        with pytest.raises(ValueError, match=r"t\.tif: cannot be read"):
            PageReader().get_data(f"{path}#0")
    else:
        assert shapes == [(20, 31)] * len(STACK)
        np.testing.assert_array_equal([PageReader().get_data(f"{path}#{p}")[0] for p in range(len(STACK))], STACK)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_stack_is_named_by_the_loader(stack: Path, kept: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    whole = stack.read_bytes()
    stack.write_bytes(whole[: int(kept * len(whole))])
    said = refusal(f"{stack}#0")
    assert f"{stack}: cannot be read" in said
    assert "truncated" in said


@pytest.mark.parametrize("name", ["t.png", "t.nii.gz", "t.bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.5])
def test_truncated_files_are_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if "nii" in name:
        nibabel.save(nibabel.Nifti1Image(GREY, np.eye(4)), path)
    else:
        Image.fromarray(GREY).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert f"{path}: cannot be read" in refusal(path)


def test_a_truncated_png_is_found_by_its_header(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "t.png")
    whole = (tmp_path / "t.png").read_bytes()
    (tmp_path / "t.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"t\.png: cannot be read"):
        page_shapes(tmp_path / "t.png")


def test_another_format_under_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("not an image")
    (tmp_path / "a.png").write_text("not an image")
    for name in ("a.tif", "a.png"):
        assert f"{tmp_path / name}: cannot be read" in refusal(tmp_path / name)


def test_five_axes_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(STACK[..., None, None].repeat(2, -1), np.eye(4)), tmp_path / "v.nii")
    assert "expected planes" in refusal(tmp_path / "v.nii")
    assert "a folder, expected an image file" in refusal(tmp_path)


def test_several_files_are_not_one_image(stack: Path) -> None:
    with pytest.raises(ValueError, match="2 files for one image"):
        PageReader().get_data(PageReader().read([stack, stack]))


# --- CheckImaged ---


def named(values: Any, **meta: Any) -> MetaTensor:
    return MetaTensor(torch.as_tensor(values), meta={"filename_or_obj": "well3.tif", **meta})


def test_a_good_image_passes_unchanged() -> None:
    image = named(torch.rand(1, 4, 5))
    assert CheckImaged(keys="image")({"image": image})["image"] is image


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    image = torch.zeros(1, 4, 5)
    image[0, 1, 2] = value
    with pytest.raises(ValueError, match=r"well3\.tif: 1 pixels are NaN or infinite; replace"):
        CheckImaged(keys="image")({"image": named(image)})


def test_channels_must_be_those_of_the_network() -> None:
    colour = torch.arange(60.0).reshape(3, 4, 5)
    with pytest.raises(
        ValueError,
        match=r"well3\.tif: 3 channels, the network takes 1; take one with --channel 0 to 2, .*--in_channels 3",
    ):
        CheckImaged(keys="image", channels=1)({"image": named(colour)})
    assert CheckImaged(keys="image", channels=3)({"image": named(colour)})["image"].shape == (3, 4, 5)


@pytest.mark.parametrize(("shape", "said"), [((1, 0, 5), "no pixels"), ((4, 5), "EnsureChannelFirstd")])
def test_shapes_that_hold_no_image(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CheckImaged(keys="image")({"image": named(torch.zeros(shape))})


def test_an_image_without_a_file_goes_by_its_key() -> None:
    with pytest.raises(ValueError, match="image: 2 channels"):
        CheckImaged(keys="image")({"image": np.zeros((2, 4, 5))})


# --- ScaleToUnitRanged ---


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("arguments", [{}, {"dtype": None}])
def test_full_scale_of_the_file_becomes_one(tmp_path: Path, dtype: type, full: int, arguments: dict[str, None]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 51, full // 5, full]], dtype=dtype))
    scaled = ScaleToUnitRanged(keys="image")({"image": load(tmp_path / "a.tif", **arguments)})["image"]
    assert scaled.dtype == torch.float32
    np.testing.assert_allclose(scaled[0, 0].numpy(), [0, 51 / full, 0.2, 1], rtol=1e-6)


def test_the_scale_does_not_depend_on_the_content(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "dark.tif", np.array([[0, 51]], dtype=np.uint8))
    tifffile.imwrite(tmp_path / "bright.tif", np.array([[51, 255]], dtype=np.uint8))
    scale = ScaleToUnitRanged(keys="image")
    dark, bright = (scale({"image": load(tmp_path / f"{n}.tif")})["image"] for n in ("dark", "bright"))
    assert dark[0, 0, 1] == bright[0, 0, 0]


def test_scaling_twice_is_scaling_once_and_leaves_the_input_alone() -> None:
    image = named(torch.full((1, 2, 2), 51.0), stored_dtype="uint8")
    scale = ScaleToUnitRanged(keys="image")
    once = scale({"image": image})
    torch.testing.assert_close(scale(once)["image"].as_tensor(), torch.full((1, 2, 2), 0.2))
    assert "scaled_by" not in image.meta
    assert image.max() == 51


def test_unit_range_floats_stay_and_others_need_a_maximum() -> None:
    scale = ScaleToUnitRanged(keys="image")
    torch.testing.assert_close(
        scale({"image": torch.tensor([0.0, 0.25, 1.0])})["image"], torch.tensor([0.0, 0.25, 1.0])
    )
    with pytest.raises(
        ValueError, match=r"well3\.tif: grey values of float32 from 0 to 40, expected 0 to 1; .*maximum"
    ):
        scale({"image": named(torch.tensor([0.0, 40.0]))})
    scaled = ScaleToUnitRanged(keys="image", maximum=50)({"image": named(torch.tensor([0.0, 40.0]))})["image"]
    torch.testing.assert_close(scaled.as_tensor(), torch.tensor([0.0, 0.8]))


def test_a_dtype_without_a_scale_needs_a_maximum() -> None:
    image = named(torch.tensor([0, 3000], dtype=torch.int16), stored_dtype="int16")
    with pytest.raises(
        ValueError,
        match=r"well3\.tif: grey values of int16 from 0 to 3000, whose full scale is unknown; .*--grey_maximum",
    ):
        ScaleToUnitRanged(keys="image")({"image": image})
    scaled = ScaleToUnitRanged(keys="image", maximum=6000)({"image": image})["image"]
    torch.testing.assert_close(scaled.as_tensor(), torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, float("nan")]])
def test_values_outside_of_the_scale_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ScaleToUnitRanged(keys="image")({"image": named(torch.tensor(values))})


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("uint16", [0, 4095], ""),
        ("uint16", [0, 5000], "up to 5000, beyond grey_maximum=4095, taken in the same scale"),
        ("uint8", [0, 255], "its uint8 grey values end at 255, and grey_maximum=4095 is taken for white"),
    ],
)
def test_images_brighter_or_of_fewer_bits_than_in_training_keep_its_scale_and_are_named(
    dtype: str, values: list[int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = named(torch.tensor(values, dtype=torch.int32), stored_dtype=dtype)
    scaled = ScaleToUnitRanged(keys="image", maximum=4095)({"image": image})["image"]
    torch.testing.assert_close(scaled.as_tensor(), torch.tensor(values) / 4095)
    assert said in caplog.text
    assert bool(caplog.records) == bool(said)


def test_values_far_beyond_white_are_refused() -> None:
    image = named(torch.tensor([0, 65535], dtype=torch.int32), stored_dtype="uint16")
    with pytest.raises(ValueError, match=r"well3\.tif: grey values of uint16 from 0 to 65535, expected 0 to 4095"):
        ScaleToUnitRanged(keys="image", maximum=4095)({"image": image})


def test_a_maximum_that_is_no_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="maximum=0"):
        ScaleToUnitRanged(keys="image", maximum=0)


class TestLogarithm:
    def test_equal_factors_become_equal_steps_and_the_ends_stay(self) -> None:
        scale = ScaleToUnitRanged("image", logarithm=0.001)
        image = torch.tensor([[0.0, 0.01, 0.1, 1.0]])
        found = scale({"image": MetaTensor(image, meta={"stored_dtype": "float32"})})["image"].as_tensor()[0]
        np.testing.assert_allclose(
            found, [math.log(1 + x / 0.001) / math.log(1001) for x in (0, 0.01, 0.1, 1)], rtol=1e-6
        )
        assert float(found[0]) == 0
        assert float(found[3]) == 1
        # far above 0.001 a factor of ten is a third of all between 0.001 and 1
        assert float(found[2] - found[1]) == pytest.approx(1 / 3, abs=0.02)

    def test_a_part_of_an_image_is_that_part_of_the_whole(self) -> None:
        image = torch.randint(0, 256, (1, 37, 53), generator=torch.Generator().manual_seed(0)).float()
        scale = ScaleToUnitRanged("image", logarithm=0.02)
        whole, part = (
            scale({"image": MetaTensor(pixels, meta={"stored_dtype": "uint8"})})["image"].as_tensor()
            for pixels in (image.clone(), image[:, 3:, 5:].clone())
        )
        assert torch.equal(whole[:, 3:, 5:], part)

    def test_what_is_no_grey_value_is_refused(self) -> None:
        with pytest.raises(ValueError, match="grey_log=0"):
            ScaleToUnitRanged("image", logarithm=0)

"""Row streaming: the whole image's scores from strips of rows, with nothing computed twice and little held."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.network import Preset, UNet
from unet_paper.row_streaming import RowStream, streaming_bytes

FEATURES = (4, 8, 16, 32, 64)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def unet(preset: Preset = "paper", features: Sequence[int] = FEATURES, in_channels: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=in_channels, features=features, preset=preset).double().eval()


def stream(network: nn.Module, image: Tensor, heights: Iterable[int]) -> Tensor:
    """Scores of an image that is pushed in strips of these heights, in turn."""
    rows = RowStream(network)
    results = []
    start = 0
    for height in heights:
        if start >= image.shape[2]:
            break
        results.append(rows.push(image[:, :, start : start + height]))
        start += height
    return torch.cat([result for result in results if result is not None], dim=2)


@settings(max_examples=25, deadline=None)
@given(
    levels=st.integers(1, 4),
    preset=st.sampled_from(["paper", "phseg_v5"]),
    batch=st.integers(1, 2),
    steps=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    heights=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_strips_of_any_heights_equal_the_whole_image(
    levels: int, preset: Preset, batch: int, steps: tuple[int, int], heights: list[int]
) -> None:
    network = unet(preset, FEATURES[:levels], in_channels=2)
    height, width = (geometry.input_size(16, levels) + geometry.pooling_factor(levels) * step for step in steps)
    image = torch.rand(batch, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
    with torch.no_grad():
        expected = network(image)
        result = stream(network, image, itertools.cycle(heights))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
@pytest.mark.parametrize("height", [1, 16, 37, 1000])
def test_five_levels(preset: Preset, height: int) -> None:
    network = unet(preset)
    image = torch.rand(1, 1, 236, 204, dtype=torch.float64)
    expected = network(image)
    assert expected.std() > 0.01
    torch.testing.assert_close(stream(network, image, itertools.repeat(height)), expected, rtol=0, atol=1e-12)
    single = stream(network.float(), image.float(), itertools.repeat(height))
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_memory_formats_do_not_matter() -> None:
    network = unet()
    image = torch.rand(1, 1, 220, 204, dtype=torch.float64)
    expected = network(image)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(stream(network, image, itertools.repeat(32)), expected, rtol=0, atol=1e-12)


def test_nothing_is_computed_twice() -> None:
    network = unet()
    image = torch.rand(1, 1, 236, 204, dtype=torch.float64)
    pixels: Counter[str] = Counter()

    def count(name: str) -> None:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: pixels.update({name: output[0, 0].numel()})
        )

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            count(name)
    network(image)
    whole = dict(pixels)
    pixels.clear()
    stream(network, image, itertools.repeat(21))
    assert len(whole) == 23
    assert dict(pixels) == whole


def test_scores_come_as_soon_as_their_rows_have_been_seen() -> None:
    network = unet()
    image = torch.rand(1, 1, 220, 188, dtype=torch.float64)
    rows = RowStream(network)
    done = 0
    for seen in range(1, 221):
        result = rows.push(image[:, :, seen - 1 : seen])
        done += 0 if result is None else result.shape[2]
        # whole rows of the bottleneck are 16 px: complete is what a network given just these rows would predict
        smallest = 188
        expected = 0 if seen < smallest else (seen - smallest) // 16 * 16 + 4
        assert done == expected


@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
def test_memory_does_not_grow_with_the_height_of_the_image(preset: Preset) -> None:
    features = (8, 8, 16, 16, 16)
    network = unet(preset, features).float()
    peaks = []
    for height in (412, 828):
        image = torch.rand(1, 1, height, 252)
        rows = RowStream(network)
        with LiveMemory() as memory:
            for strip in image.split(32, dim=2):
                rows.push(strip)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] < streaming_bytes((1, 1, 32, 252), features)
    with LiveMemory() as memory:
        network(torch.rand(1, 1, 828, 252))
    assert peaks[1] < 0.35 * memory.peak


@pytest.mark.parametrize("strip", [16, 128])
@pytest.mark.parametrize("features", [(16, 16, 8, 8, 8), (4, 4, 4, 4, 32)])
def test_the_memory_model_bounds_what_is_alive(strip: int, features: tuple[int, ...]) -> None:
    network = unet("phseg_v5", features).float()
    rows = RowStream(network)
    image = torch.rand(2, 1, 380, 204)
    with LiveMemory() as memory:
        for part in image.split(strip, dim=2):
            rows.push(part)
    model = streaming_bytes((2, 1, strip, 204), features)
    assert 0.3 * model < memory.peak < model


def test_streaming_bytes_by_hand() -> None:
    # one level: no skip waits; 3 new and 2 kept rows of 8 px, and what the convolutions make of them, all twice, and
    # 9 weights for each of 2 x 2 pairs of channels
    assert streaming_bytes((1, 1, 3, 8), (2,), itemsize=1) == 2 * 5 * 8 * (1 + 2 * 2) + 9 * 2 * 2


def test_dropout_draws_in_training_and_only_there() -> None:
    network = unet()
    image = torch.rand(1, 1, 220, 188, dtype=torch.float64)

    def predict() -> Tensor:
        return stream(network, image, itertools.repeat(32))

    assert torch.equal(predict(), predict())
    network.train()
    assert not torch.equal(predict(), predict())


def test_strips_that_do_not_fit_are_refused() -> None:
    network = UNet(features=(2, 3)).eval()
    stream = RowStream(network)
    for shape, message in (
        ((1, 3, 8, 20), r"\(1, 3, 8, 20\): \(B, 1, rows, W\)"),
        ((1, 8, 20), r"\(1, 8, 20\): \(B, 1, rows, W\)"),
        ((1, 1, 8, 21), "input_size=21: .* nearest 20 and 22"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.push(torch.zeros(shape))
    stream.push(torch.zeros(1, 1, 8, 20))
    with pytest.raises(ValueError, match="those before have 1 images, 20 px wide"):
        stream.push(torch.zeros(1, 1, 8, 22))


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match=r"network: .* got Sequential; use strategy='tiles'"):
        RowStream(nn.Sequential())

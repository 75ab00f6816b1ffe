"""Overlap-tile prediction: tiles equal the whole image, for any image, tile, network and number of levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from unet_paper import geometry, inferer
from unet_paper.activation_memory import activation_bytes
from unet_paper.inferer import OverlapTileInferer, mirrored_indices, plan_spans
from unet_paper.network import UNet

MARGIN = 92


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(out_channels=3, features=(4, 8, 16, 32, 64)).double().eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def whole_prediction(images: Tensor, network: Callable[[Tensor], Tensor], levels: int = 5) -> Tensor:
    """By definition: mirror with NumPy as far as the network needs, predict in one piece, crop."""
    height, width = images.shape[2:]
    margin = geometry.margin(levels)
    pads = [(margin, geometry.input_size(length, levels) - margin - length) for length in (height, width)]
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), *pads], mode="reflect")
    return network(torch.from_numpy(padded))[:, :, :height, :width]


@given(size=st.integers(1, 30), before=st.integers(0, 200), after=st.integers(0, 200))
def test_mirrored_indices_are_those_of_numpys_reflection(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(mirrored_indices(-before, before + size + after, size), expected)


@given(data=st.data(), levels=st.integers(1, 6), length=st.integers(1, 3000))
def test_spans_partition_the_axis_on_the_pooling_grid(data: st.DataObject, levels: int, length: int) -> None:
    factor = geometry.pooling_factor(levels)
    smallest = geometry.input_size(factor, levels)
    tile_size = smallest + factor * data.draw(st.integers(0, 40))
    spans = plan_spans(length, tile_size, levels)
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(length))
    for span in spans:
        assert span.start % factor == 0
        assert span.read <= tile_size
        assert geometry.output_size(span.read, levels) >= span.stop - span.start > 0


def test_a_tile_that_predicts_less_than_the_grids_step_is_refused_naming_the_smallest() -> None:
    assert plan_spans(4, 188) == [(0, 4, 188)]
    with pytest.raises(ValueError, match=r"tile_size=188: .* use 204 or more"):
        plan_spans(5, 188)
    assert len(plan_spans(37, 204)) == 3  # 16 + 16 + 5


@pytest.mark.parametrize("shape", [(1, 7), (1, 1), (50, 205), (93, 40), (20, 20)])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strategy": "whole"},
        {"tile_size": 204},
        {"tile_size": 220, "batch_size": 3},
        {"tile_size": 252},
        {"strategy": "rows"},
        {"strategy": "rows", "tile_size": 23},
    ],
    ids=str,
)
def test_every_strategy_equals_the_whole_image(
    network: UNet, shape: tuple[int, int], arguments: dict[str, Any]
) -> None:
    images = image(2, 1, *shape)
    expected = whole_prediction(images, network)
    result = OverlapTileInferer(**arguments)(images, network)
    assert result.shape == (2, 3, *shape)
    assert result.dtype == torch.float64
    assert expected.std() > 0.01
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(levels=st.integers(1, 4), steps=st.integers(0, 5), height=st.integers(1, 90), width=st.integers(1, 90))
def test_tiles_and_rows_equal_the_whole_image_for_other_levels(
    levels: int, steps: int, height: int, width: int
) -> None:
    torch.manual_seed(levels)
    network = UNet(in_channels=2, features=(3, 4, 5, 6)[:levels]).double().eval()
    tile_size = geometry.input_size(16, levels) + 16 * steps
    images = image(1, 2, height, width)
    expected = whole_prediction(images, network, levels)
    with torch.no_grad():
        for options in ({"tile_size": tile_size}, {"strategy": "rows", "tile_size": 1 + 7 * steps}):
            result = OverlapTileInferer(levels=levels, **options)(images, network)
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_single_precision_agrees_to_1e_5(strategy: inferer.Strategy) -> None:
    torch.manual_seed(0)
    network = UNet(features=(4, 8, 16, 32, 64)).eval()
    images = image(1, 1, 230, 100).float()
    expected = OverlapTileInferer(strategy="whole")(images, network)
    result = OverlapTileInferer(strategy=strategy, tile_size=252)(images, network)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_images_of_a_batch_do_not_meet(network: UNet) -> None:
    images = image(3, 1, 30, 40)
    for strategy in ("tiles", "whole", "rows"):
        together = OverlapTileInferer(strategy=strategy, batch_size=2)(images, network)
        alone = torch.cat([OverlapTileInferer(strategy=strategy)(each[None], network) for each in images])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("none", [(0, False)]),
        ("flips", [(0, False), (2, False), (0, True), (2, True)]),
        ("rotations", [(0, False), (1, False), (2, False), (3, False)]),
        ("all", [(turns, flip) for turns in range(4) for flip in (False, True)]),
    ],
)
@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_symmetries_average_the_scores(
    network: UNet, name: inferer.Symmetries, members: Sequence[tuple[int, bool]], strategy: inferer.Strategy
) -> None:
    images = image(1, 1, 17, 40)
    expected = np.zeros((1, 3, 17, 40))
    for turns, flip in members:
        seen = np.rot90(images.numpy(), turns, (2, 3))
        seen = seen[:, :, ::-1] if flip else seen
        scores = whole_prediction(torch.from_numpy(seen.copy()), network).numpy()
        scores = scores[:, :, ::-1] if flip else scores
        expected += np.rot90(scores, -turns, (2, 3)) / len(members)
    result = OverlapTileInferer(symmetries=name, strategy=strategy)(images, network)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


def test_metadata_stays_with_the_prediction(network: UNet) -> None:
    plain = image(1, 1, 20, 30)
    images = MetaTensor(plain, meta={"filename_or_obj": "cells.tif"})
    for name in ("none", "all"):
        result = OverlapTileInferer(symmetries=name)(images, network)
        assert isinstance(result, MetaTensor)
        assert result.meta["filename_or_obj"] == "cells.tif"
        bare = OverlapTileInferer(symmetries=name)(plain, network)
        assert type(bare) is Tensor
        assert torch.equal(result.as_tensor(), bare)


@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_half_precision_is_stitched_in_single(strategy: inferer.Strategy) -> None:
    torch.manual_seed(0)
    network = UNet(features=(4, 4, 4, 4, 4)).eval()
    images = image(1, 1, 20, 30).float()
    reference = OverlapTileInferer(strategy="whole")(images, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(image(1, 1, 188, 188).float()).dtype == torch.bfloat16
        result = OverlapTileInferer(strategy=strategy, symmetries="flips")(images, network)
        single = OverlapTileInferer(strategy=strategy)(images, network)
    assert result.dtype == single.dtype == torch.float32
    # 8 bits of mantissa through 23 layers; a wrong pixel would differ by the scores' own spread
    assert float((single - reference).abs().max()) < 0.1 * float(reference.std())


class _Scaled(nn.Module):
    """A network that is no UNet and takes a further argument."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, factor: float = 1.0) -> Tensor:
        return self.network(images) * factor


def test_further_arguments_reach_the_network(network: UNet) -> None:
    images = image(1, 1, 20, 30)
    expected = 2 * whole_prediction(images, network)
    for arguments, keywords in (((2.0,), {}), ((), {"factor": 2.0})):
        result = OverlapTileInferer()(images, _Scaled(network), *arguments, **keywords)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    with pytest.raises(TypeError, match="strategy='rows'"):
        OverlapTileInferer(strategy="rows")(images, network, 2.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_compiled_and_parallel_networks(network: UNet, tmp_path: Path) -> None:
    images = image(1, 1, 60, 30)
    budget = 6_000_000  # enough for these features, not for those of the paper
    expected = whole_prediction(images, network)
    compiled = torch.compile(network, backend="eager")
    for each in (torch.jit.script(network), compiled, lambda tiles: network(tiles)):
        result = OverlapTileInferer(tile_size=204)(images, each)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    assert OverlapTileInferer(memory_budget=budget)(images, torch.jit.script(network)).shape == expected.shape
    torch.testing.assert_close(
        OverlapTileInferer(strategy="rows", memory_budget=budget)(images, compiled), expected, rtol=0, atol=1e-12
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        for strategy in ("tiles", "rows"):
            result = OverlapTileInferer(strategy=strategy)(images, parallel)
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="levels=4: the network has 5"):
            OverlapTileInferer(levels=4)(images, parallel)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_alone(training: bool) -> None:
    network = UNet(features=(2, 2, 2, 2, 2)).train(training)
    OverlapTileInferer()(image(1, 1, 5, 5).float(), network)
    assert network.training is training


@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_a_memory_budget_is_kept_and_used(strategy: inferer.Strategy) -> None:
    network = UNet(features=(8, 8, 8, 8, 8), preset="phseg_v5").eval()
    images = image(1, 1, 270, 150).float()
    peaks = []
    for budget in (6_000_000, 9_000_000):
        with LiveMemory() as memory:
            result = OverlapTileInferer(strategy=strategy, memory_budget=budget)(images, network)
        peaks.append(memory.peak - result.nbytes)
        # the model reserves a copy of a convolution's operands for the library, which is not seen here
        assert 0.25 * budget < peaks[-1] < budget
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_a_budget_too_small_names_the_least_that_works(network: UNet, strategy: inferer.Strategy) -> None:
    images = image(1, 1, 30, 17)
    with pytest.raises(ValueError, match=r"memory_budget=1000: .* needs (\d+) bytes") as error:
        OverlapTileInferer(strategy=strategy, memory_budget=1000)(images, network)
    needed = int(str(error.value).split("needs ")[1].split()[0])
    assert OverlapTileInferer(strategy=strategy, memory_budget=needed)(images, network).shape == (1, 3, 30, 17)
    with pytest.raises(ValueError, match="memory_budget"):
        OverlapTileInferer(strategy=strategy, memory_budget=needed - 1)(images, network)


def test_activation_bytes_of_the_smallest_case_by_hand() -> None:
    # One level, 2 channels, 7 x 7: the second convolution holds its 2 x 7 x 7 input's owner, and twice 5 x 5 x 2 and
    # 3 x 3 x 2 with the copies, and a copy of 3 x 3 x 2 x 2 weights; the first one less: 2 (7 x 7 + 5 x 5 x 2) + 18.
    assert activation_bytes((1, 1, 7, 7), (2,), itemsize=1) == max(2 * (49 + 50) + 18, 49 + 2 * (50 + 18) + 36)


def test_progress_shows_on_long_work_only(
    network: UNet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = image(1, 1, 40, 40)
    OverlapTileInferer(progress=True, tile_size=204)(images, network)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(inferer, "PROGRESS_DELAY", 0.0)
    OverlapTileInferer(tile_size=204)(images, network)
    assert capsys.readouterr().err == ""
    OverlapTileInferer(progress=True, tile_size=204)(images, network)
    assert "overlap-tile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "columns"}, "strategy='columns': must be one of tiles, whole, rows"),
        ({"symmetries": "mirror"}, "symmetries='mirror': must be one of none, flips, rotations, all"),
        ({"tile_size": 570}, "nearest 556 and 572"),
        ({"strategy": "rows", "tile_size": 0}, "tile_size=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"levels": 0}, "levels=0"),
        ({"tile_size": 572, "memory_budget": 10}, "give one, not both"),
        ({"strategy": "whole", "tile_size": 572}, "strategy='whole'"),
        ({"strategy": "rows", "tile_size": 20.5}, "tile_size=20.5: a whole number"),
        ({"tile_size": True}, "tile_size=True"),
        ({"batch_size": 1.5}, "batch_size=1.5: a whole number"),
        ({"levels": 2.5}, "levels=2.5: a whole number"),
        ({"memory_budget": "1"}, "memory_budget='1': a number of bytes"),
        ({"memory_budget": float("nan")}, "memory_budget=nan"),
        ({"symmetries": ["all"]}, r"symmetries=\['all'\]"),
        ({"engine": "openvino"}, "engine='openvino'"),
        ({"progress": "no"}, "progress='no'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OverlapTileInferer(**arguments)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 20, 20), r"shape \(1, 20, 20\)"),
        (torch.zeros(1, 1, 0, 20), r"shape \(1, 1, 0, 20\)"),
        (torch.zeros(1, 1, 20, 20, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 1, 20, 20), float("nan")), "grey values from nan"),
        (torch.zeros(1, 3, 20, 20), r"shape.*\(B, 1, "),
    ],
)
@pytest.mark.parametrize("strategy", ["tiles", "rows"])
def test_bad_images_are_refused(network: UNet, strategy: inferer.Strategy, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OverlapTileInferer(strategy=strategy)(images, network)


def test_what_is_no_tensor_is_refused(network: UNet) -> None:
    with pytest.raises(TypeError, match="inputs: ndarray"):
        OverlapTileInferer()(np.zeros((1, 1, 20, 20), np.float32), network)
    with pytest.raises(TypeError, match="network: NoneType"):
        OverlapTileInferer()(image(1, 1, 20, 20), None)


@pytest.mark.parametrize("strategy", ["tiles", "whole", "rows"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_computed_in_the_networks(
    strategy: inferer.Strategy, dtype: torch.dtype
) -> None:
    single = UNet(features=(2, 3)).eval()
    images = image(1, 1, 20, 30).to(dtype)
    predict = OverlapTileInferer(levels=2, strategy=strategy)
    scores = predict(images, single)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, predict(images.float(), single))


def test_results_that_are_no_scores_are_named() -> None:
    counts = iter((2, 3))
    with pytest.raises(ValueError, match="with 3 channels, and 2 channels for a tile before"):
        OverlapTileInferer(levels=2, tile_size=22)(
            torch.zeros(1, 1, 30, 10), lambda tiles: tiles[:, :1, 8:-8, 8:-8].repeat(1, next(counts), 1, 1)
        )
    with pytest.raises(ValueError, match=r"returned torch\.int64 with 1 channels"):
        OverlapTileInferer(levels=2)(torch.zeros(1, 1, 9, 9), lambda tiles: tiles[:, :, 8:-8, 8:-8].long())


def test_networks_that_do_not_fit_are_named(network: UNet) -> None:
    images = image(1, 1, 20, 20)
    with pytest.raises(ValueError, match="levels=3: the network has 5 levels; give the inferer levels=5"):
        OverlapTileInferer(levels=3)(images, network)
    with pytest.raises(ValueError, match=r"returned shape \(1, 1, 204, 204\) .* give \(1, K, 20, 20\)"):
        OverlapTileInferer()(images, nn.Conv2d(1, 1, 3, padding=1).double())
    with pytest.raises(TypeError, match="returned list"):
        OverlapTileInferer()(images, lambda tiles: [tiles])
    with pytest.raises(TypeError, match="got Conv2d; use strategy='tiles'"):
        OverlapTileInferer(strategy="rows")(images, nn.Conv2d(1, 1, 3))

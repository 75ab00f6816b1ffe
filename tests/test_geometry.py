"""Sizes by brute force: every layer's effect on one side, one layer after the other."""

from __future__ import annotations

import itertools

import pytest

from unet_paper import geometry

LEVELS = range(1, 7)


def simulate(size: int, levels: int) -> tuple[int, list[int]] | None:
    """Output size and crop of each skip, full resolution first, or None where a map vanishes or does not pool."""
    skips = []
    for level in range(levels):
        if level > 0:
            if size % 2:
                return None
            size //= 2
        size -= 4
        if size < 1:
            return None
        skips.append(size)
    skips.pop()
    crops: list[int] = []
    while skips:
        size *= 2
        crops.insert(0, (skips.pop() - size) // 2)
        size -= 4
        if size < 1:
            return None
    return size, crops


@pytest.mark.parametrize("levels", LEVELS)
def test_every_size_up_to_900(levels: int) -> None:
    valid = {size: result for size in range(900) if (result := simulate(size, levels))}
    assert len(valid) > 10
    for size in range(-3, 900):
        if size in valid:
            output, crops = valid[size]
            assert geometry.output_size(size, levels) == output
            assert size - output == 2 * geometry.margin(levels)
            assert geometry.skip_crops(levels) == tuple(crops)
        else:
            with pytest.raises(ValueError, match=f"input_size={size}: valid sizes are"):
                geometry.output_size(size, levels)


@pytest.mark.parametrize("levels", LEVELS)
def test_nearest_sizes_and_the_smallest_that_covers(levels: int) -> None:
    valid = [size for size in range(1000) if simulate(size, levels)]
    outputs = [size - 2 * geometry.margin(levels) for size in valid]
    assert geometry.smallest_output_size(levels) == outputs[0]
    assert {b - a for a, b in itertools.pairwise(valid)} == {geometry.pooling_factor(levels)}
    for near in range(1, 900):
        below = max((size for size in valid if size <= near), default=valid[0])
        above = min(size for size in valid if size >= near)
        assert geometry.valid_input_sizes(near, levels) == (below, above)
    for wanted in range(1, valid[-1] - 2 * geometry.margin(levels) + 1):
        expected = min(size for size, output in zip(valid, outputs, strict=True) if output >= wanted)
        assert geometry.input_size(wanted, levels) == expected


def test_the_numbers_of_the_paper_and_its_released_code() -> None:
    assert geometry.output_size(572) == 388
    assert geometry.output_size(188) == 4
    assert geometry.skip_crops() == (88, 40, 16, 4)
    assert geometry.margin() == 92


def test_errors_name_the_nearest_sizes() -> None:
    with pytest.raises(ValueError, match=r"^input_size=570: valid sizes are 16k\+60, nearest 556 and 572$"):
        geometry.output_size(570)
    with pytest.raises(ValueError, match=r"^input_size=44: valid sizes are 16k\+60, the smallest is 188$"):
        geometry.output_size(44)
    with pytest.raises(ValueError, match="output_size=0"):
        geometry.input_size(0)
    with pytest.raises(ValueError, match="levels=0"):
        geometry.pooling_factor(0)

"""The picture that a prediction leaves: its panels, for any size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unet_paper.running.figures import cell_colours
from unet_paper.running.predictions import GAP, PANEL, overview


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), known=st.booleans())
def test_panels_stand_side_by_side(height: int, width: int, seed: int, known: bool) -> None:
    rng = np.random.default_rng(seed)
    image, probability = rng.normal(size=(2, height, width)).astype(np.float32)
    cells = rng.integers(0, 5, (height, width), dtype=np.int32)
    picture = overview(image, probability if known else None, cells)
    count = 3 if known else 2
    assert picture.dtype == np.uint8
    assert picture.shape == (height, count * width + (count - 1) * GAP, 3)
    np.testing.assert_array_equal(picture[:, -width:], cell_colours(cells))
    first = picture[:, :width, 0]
    assert first[np.unravel_index(image.argmin(), image.shape)] == 0
    assert first[np.unravel_index(image.argmax(), image.shape)] == (255 if image.size > 1 else 0)
    if known:
        middle = picture[:, width + GAP : 2 * width + GAP]
        np.testing.assert_allclose(middle[..., 1], 255 * np.clip(probability, 0, 1), atol=1)


def test_an_even_image_without_cells_is_black() -> None:
    picture = overview(np.full((2, 3), 7.0), np.zeros((2, 3)), np.zeros((2, 3), int))
    assert picture[:, :3].max() == picture[:, -3:].max() == 0
    assert picture[:, 3 : 3 + GAP].min() == 255


def test_a_large_image_is_thinned() -> None:
    cells = np.zeros((PANEL + 1, 3), np.int32)
    cells[2, 2] = 4
    picture = overview(np.zeros(cells.shape), None, cells)
    assert picture.shape == (-(-(PANEL + 1) // 2), 2 * 2 + GAP, 3)
    np.testing.assert_array_equal(picture[1, -1], cell_colours(np.array([[4]]))[0, 0])

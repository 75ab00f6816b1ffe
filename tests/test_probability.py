"""Class probabilities: those of torch, and the same for a pixel in every part of an image."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from unet_paper.probability import ClassProbabilitiesd, class_probabilities


@settings(deadline=None)
@given(
    seed=st.integers(0, 99),
    classes=st.integers(1, 4),
    box=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)),
)
def test_a_part_has_the_probabilities_of_the_whole(seed: int, classes: int, box: tuple[int, int, int, int]) -> None:
    scores = 8 * torch.randn(classes, 80, 80, generator=torch.Generator().manual_seed(seed))
    top, left, height, width = box
    whole = class_probabilities(scores)
    torch.testing.assert_close(whole, torch.softmax(scores, dim=0))
    part = class_probabilities(scores[:, top : top + height, left : left + width])
    assert torch.equal(part, whole[:, top : top + height, left : left + width])


def test_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([1e30, -1e30, 0.0])[:, None, None]
    np.testing.assert_array_equal(class_probabilities(scores).flatten(), [1, 0, 0])


def test_the_transform_keeps_metadata_and_leaves_the_scores_alone() -> None:
    scores = MetaTensor(torch.randn(2, 3, 4), meta={"filename_or_obj": "a.png"})
    before = scores.clone()
    item = ClassProbabilitiesd()({"pred": scores, "image": 1})
    assert item["pred"].meta["filename_or_obj"] == "a.png"
    assert torch.equal(scores.as_tensor(), before.as_tensor())
    assert ClassProbabilitiesd(allow_missing_keys=True)({"image": 1}) == {"image": 1}

"""F1 and panoptic quality of cells found, against counts by hand."""

import math

import numpy as np
import pytest
import torch

from unet_paper.metrics import f1, panoptic_quality
from unet_paper.metrics.f1 import f1_counts
from unet_paper.metrics.monai_metrics import F1, PQ


def row(*ids: int) -> np.ndarray:
    return np.array([ids], dtype=np.int64)


@pytest.mark.parametrize(
    ("prediction", "reference", "counts"),
    [
        (row(1, 1, 0, 0), row(5, 5, 0, 0), (1, 1, 1)),
        (row(1, 1, 0, 0), row(5, 5, 5, 5), (0, 1, 1)),  # exactly a half is no match
        (row(1, 1, 1, 0), row(5, 5, 5, 5), (1, 1, 1)),
        (row(1, 1, 1, 2), row(5, 5, 5, 6), (2, 2, 2)),
        (row(1, 1, 1, 1), row(5, 5, 6, 6), (0, 1, 2)),  # two cells in one
        (row(1, 2, 3, 4), row(5, 5, 5, 5), (0, 4, 1)),  # specks
        (row(1, 1, 1, 2), row(5, -1, -1, -1), (0, 0, 1)),  # mostly unknown, and wholly unknown
        (row(1, 1, 0, 0), row(5, -1, 0, 0), (1, 1, 1)),
        (row(0, 0, 0, 0), row(0, 0, 0, 0), (0, 0, 0)),
    ],
)
def test_counts(prediction: np.ndarray, reference: np.ndarray, counts: tuple[int, int, int]) -> None:
    assert f1_counts(prediction, reference) == counts


def test_score_is_of_all_frames_together() -> None:
    predictions, references = [row(1, 1, 0), row(1, 2, 3)], [row(4, 4, 0), row(0, 0, 9)]
    assert f1(predictions, references) == pytest.approx(2 * 2 / (4 + 2))
    metric = F1()
    metric(torch.tensor(np.stack(predictions))[:, None], torch.tensor(np.stack(references))[:, None])
    assert metric.aggregate().item() == pytest.approx(2 / 3)
    assert metric.per_image().tolist() == [1.0, 0.5]


def test_undefined_without_a_cell_and_refused_below_a_half() -> None:
    assert math.isnan(f1(row(0), row(0)))
    with pytest.raises(ValueError, match=r"threshold='a': 0.5 to 1"):
        f1(row(1), row(1), threshold="a")
    with pytest.raises(ValueError, match=r"threshold=0.3: 0.5 to 1"):
        f1(row(1), row(1), threshold=0.3)


@pytest.mark.parametrize(
    ("prediction", "reference", "quality"),
    [
        (row(1, 1, 0, 0), row(5, 5, 0, 0), 1.0),
        (row(1, 1, 1, 0), row(5, 5, 5, 5), 3 / 4),  # found, with three quarters of its pixels
        (row(1, 1, 0, 0), row(5, 5, 5, 5), 0.0),  # exactly a half is no match
        (row(1, 1, 1, 2), row(5, 5, 5, 5), (3 / 4) / 1.5),  # and a speck, which is half an error
        (row(1, 1, 1, 0), row(5, 5, 5, 6), 1 / 1.5),  # and one missed
        (row(1, 1, 1, 2), row(5, 5, -1, -1), 1.0),  # neither what is unknown nor a cell that mostly is
    ],
)
def test_panoptic_quality(prediction: np.ndarray, reference: np.ndarray, quality: float) -> None:
    assert panoptic_quality(prediction, reference) == pytest.approx(quality)
    metric = PQ()
    metric(torch.tensor(prediction)[None, None], torch.tensor(reference)[None, None])
    assert metric.aggregate().item() == pytest.approx(quality)


def test_panoptic_quality_is_f1_times_the_mean_overlap() -> None:
    chance = np.random.default_rng(3)
    reference = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((8, 8), np.int64))
    prediction = np.where(chance.random(reference.shape) < 0.35, 0, np.roll(reference, (1, 0), axis=(0, 1)))
    overlaps = []
    for cell in range(1, 26):
        own, found = reference == cell, prediction == cell
        overlaps.append((own & found).sum() / (own | found).sum())
    of_matches = [overlap for overlap in overlaps if overlap > 0.5]
    assert 0 < len(of_matches) < 25
    assert f1(prediction, reference) == pytest.approx(2 * len(of_matches) / 50)
    assert panoptic_quality(prediction, reference) == pytest.approx(f1(prediction, reference) * np.mean(of_matches))
    assert math.isnan(panoptic_quality(row(0), row(0)))

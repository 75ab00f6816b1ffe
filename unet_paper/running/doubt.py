"""How sure a network is of an image, by its own probabilities, and how far that can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unet_paper.label_image import bands

# An image without cells is no doubtful one: it counts as if this share of it were cells.
_FLOOR = 0.01


def doubt(probability: NDArray[Any]) -> float:
    """Pixels that the network expects to get wrong for each pixel of cell that it expects.

    A pixel of probability p is wrong with probability min(p, 1 - p), if the network knows itself:

        doubt = sum min(p, 1 - p) / (sum p + 0.01 N)

    Args:
        probability: of the cell, shape (H, W), N pixels.

    Returns:
        0 for a network that is sure of every pixel, about 1 for one that knows nothing.

    >>> doubt(np.array([[0.0, 1.0], [1.0, 0.0]])), round(doubt(np.full((4, 4), 0.5)), 2)
    (0.0, 0.98)
    """
    wrong = cell = 0.0
    for rows in bands(probability.shape):
        values = np.asarray(probability[rows], np.float64)
        wrong += float(np.minimum(values, 1 - values).sum())
        cell += float(values.sum())
    return wrong / (cell + _FLOOR * max(probability.size, 1))


# images below which a correlation is chance, and what one below this means
_ENOUGH, _WEAK = 5, 0.4


def trust(doubts: Sequence[float], scores: Sequence[float]) -> dict[str, Any]:
    """How well the doubt of images tells their errors, for the record of a training.

    Args:
        doubts: of validation images.
        scores: of the same images, the higher the better; NaN for one that has none.

    Returns:
        ``images``: how many were compared; ``correlation``: Spearman's, of doubt and 1 - score, 1 where both order the
        images alike; None where there are too few images, or all are alike.

    >>> trust([0.1, 0.2, 0.3, 0.5, 0.9], [0.95, 0.9, 0.8, 0.85, 0.4])
    {'images': 5, 'correlation': 0.9}
    """
    known = [(doubted, 1 - score) for doubted, score in zip(doubts, scores, strict=True) if np.isfinite(score)]
    found: dict[str, Any] = {"images": len(known), "correlation": None}
    if len(known) >= _ENOUGH and all(len(set(values)) > 1 for values in zip(*known, strict=True)):
        found["correlation"] = round(float(stats.spearmanr(*zip(*known, strict=True)).statistic), 3)
    return found


def trust_in_words(record: Mapping[str, Any] | None) -> str:
    """What ``predictions.html`` says of that; empty where the weights know nothing of it.

    Args:
        record: of :func:`trust`, with the score's name as ``score``.

    >>> trust_in_words({"images": 12, "correlation": 0.81, "score": "F1"})
    "On training's 12 validation images doubt and true error (1 - F1) went together: rank correlation 0.81 of 1."
    """
    if not record:
        return ""
    images, error = record["images"], f"true error (1 - {record['score']})"
    if record["correlation"] is None:
        return f"How well doubt tells {error} is not known: {images} validation images are too few, or too alike."
    said = f"On training's {images} validation images doubt and {error} "
    number = f"rank correlation {record['correlation']:.2f} of 1"
    if record["correlation"] < _WEAK:
        return f"{said}hardly went together: {number}. Do not rely on this order."
    return f"{said}went together: {number}."

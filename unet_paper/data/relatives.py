"""Images that show the same: copies, overlapping tiles, one field at several times.

Held out while its like is learnt from, an image flatters the network. What tells relatives is what the images show,
whatever their names: each is made small, its light evened out, and compared with all others, in all eight positions,
and moved. Independent images of one kind of cells correlate by 0 +- 0.05 then; frames of the challenges that follow one
another by 0.2 to 0.8, copies by more. What all images have in common, as dirt in the optics, does not count.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.transform import resize_local_mean

from unet_paper.data.photometric import upright

__all__ = ["FURTHER_ON", "Relation", "likeness_of_frames", "miniature", "relations"]

FURTHER_ON = 4  # images to the next but so many, for what a group has in common

How = Literal["copy", "overlap", "scene"]
Small = NDArray[np.float32]

_FINE, _COARSE = 128, 64  # px, longer side
_FEW = 3  # images, of which it cannot be told what all have in common
# of the light that is evened out, in both
_SIGMA = 4.0
# correlation of copies; of those that are turned, negatives or blurred; and of either without what all have in common
_COPY, _CHANGED, _OWN = 0.95, 0.6, 0.5
# of one field at several times: at least, and how far beyond the highest of images with others that were turned
_SCENE, _BEYOND = 0.2, 1.15
# part of an image that two tiles share at least, and their correlation there
_SHARED, _OVERLAP, _FAR_BEYOND = 0.06, 0.45, 1.5
# pairs that are moved over one another, how many of an image are looked at closely, and of how many chance is known
_PAIRS, _CLOSELY, _BY_CHANCE = 30_000, 6, 1500
_SEARCH = 3  # px of the finer images, around where the coarser ones fit


class Relation(NamedTuple):
    """Two images that show the same.

    Attributes:
        first, second: their numbers, the first being the lower.
        how: ``copy``, be it turned, brighter or a negative; ``overlap``; or ``scene``, one field at several times.
        strength: correlation, 0 to 1.
    """

    first: int
    second: int
    how: How
    strength: float


def miniature(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image made small: its longer side has 128 px at most, its grey values are stretched to 8 bits.

    Args:
        image: grey values, shape (H, W).
    """
    small = _reduced(image, _FINE)
    low, high = np.percentile(small, (0.1, 99.9))
    return np.rint(np.clip((small - low) / max(float(high - low), 1e-9), 0, 1) * 255).astype(np.uint8)


def relations(miniatures: Sequence[NDArray[np.uint8]]) -> list[Relation]:
    """Which of some images show the same.

    Args:
        miniatures: see :func:`miniature`.

    Returns:
        Each pair once, by their numbers.
    """
    # all of them on their longer side, so that copies that were turned have one shape
    turns = [5 if image.shape[0] > image.shape[1] else 1 for image in miniatures]
    lying = [upright(image, turn) for image, turn in zip(miniatures, turns, strict=True)]
    coarse = [_evened(_reduced(image, _COARSE)) for image in lying]
    found: list[Relation] = []
    for shape in sorted({one.shape for one in coarse}):
        numbers = [number for number, one in enumerate(coarse) if one.shape == shape]
        stack = np.stack([coarse[number] for number in numbers])
        copies = _copies(stack)
        pairs = {
            **_overlaps(_own(stack), [lying[number] for number in numbers], copies),
            **_scenes(stack, copies),
            **copies,
        }
        found += [Relation(numbers[i], numbers[j], *how) for (i, j), how in pairs.items()]
    return sorted(found)


def likeness_of_frames(pictures: Small, films: Sequence[Sequence[int]]) -> float:
    """How alike pictures are to the next of their film, as far as they are frames of one; else 0.

    What all have in common, as a field that is brighter in its middle, does not count; nor does what a film's have
    that are four further on. Sequences of the challenges, also every third frame, come to 0.36 to 0.73 where images of
    their own do to less than 0.

    Args:
        pictures: small ones, shape (N, H, W), each of mean 0 and standard deviation 1.
        films: of each the numbers of its pictures in their order, more than four.
    """
    unlike = _unit(pictures - pictures.mean(axis=0))
    next_one, further_on = (
        float(
            np.median(
                [unlike[one] @ unlike[other] for film in films for one, other in zip(film, film[step:], strict=False)]
            )
        )
        for step in (1, FURTHER_ON)
    )
    return next_one if next_one > 0.2 and next_one > further_on + 0.1 else 0.0


Pairs = dict[tuple[int, int], tuple[How, float]]


def _reduced(image: NDArray[np.generic], side: int) -> Small:
    by = min(1.0, side / max(image.shape))
    shape = [max(1, round(length * by)) for length in image.shape]
    return np.asarray(resize_local_mean(image.astype(np.float32), shape), np.float32)


def _evened(small: Small) -> Small:
    """What is left without the light, as strong in dim corners as in bright ones."""
    detail = small - ndimage.gaussian_filter(small, _SIGMA, mode="nearest")
    around = np.sqrt(ndimage.gaussian_filter(detail**2, 2 * _SIGMA, mode="nearest"))
    # of an empty corner's noise no detail is made
    strength = np.maximum(around, 0.3 * float(np.sqrt(np.mean(detail**2))) + 1e-6)
    return np.asarray(np.clip(detail / strength, -3, 3), np.float32)


def _correlations(stack: Small, others: Small | None = None) -> Small:
    """Of each image with each, or each of ``others``, shape (N, N)."""
    flat = _unit(stack)
    return np.asarray(flat @ (flat if others is None else _unit(others)).T)


def _unit(stack: Small) -> Small:
    flat = stack.reshape(len(stack), -1)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def _own(stack: Small) -> Small:
    """What of each image not all have in common; of three it cannot be told."""
    return np.asarray(stack - stack.mean(axis=0) if len(stack) > _FEW else stack, np.float32)


def _above(table: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of a symmetric table, the lower number first."""
    first, second = np.nonzero(np.triu(table | table.T, 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _copies(stack: Small) -> Pairs:
    """In all positions; what all images have, as the rim of a well, looks the same from all sides."""
    own = _own(stack)
    square = stack.shape[1] == stack.shape[2]
    found: Pairs = {}
    for turn in range(1, 9 if square else 5):
        turned, own_turned = (np.stack([upright(one, turn) for one in images]) for images in (stack, own))
        alike, without = (np.abs(_correlations(*both)) for both in ((stack, turned), (own, own_turned)))
        as_it_is = turn == 1
        for i, j in _above((alike >= (_COPY if as_it_is else _CHANGED)) & (as_it_is | (without >= _OWN))):
            found[i, j] = "copy", float(max(alike[i, j], alike[j, i]))
    return found


def _scenes(stack: Small, copies: Pairs) -> Pairs:
    alike = _correlations(stack)
    own = _own(stack)
    by_chance = np.stack([_correlations(own, turned) for turned in _turned(own)])
    for i, j in copies:
        by_chance[:, [i, j], [j, i]] = 0
    highest = float(np.triu(by_chance, 1).max(initial=0.0))
    related = _correlations(own) >= max(_SCENE, _BEYOND * highest)
    return {(i, j): ("scene", float(alike[i, j])) for i, j in _above(related)}


def _turned(stack: Small) -> list[Small]:
    """Images mirrored and upside down: they have nothing to do with others any more, and are of their kind."""
    return [stack[:, ::rows, ::columns] for rows, columns in ((1, -1), (-1, -1), (-1, 1))]


class _Moved(NamedTuple):
    """Two images, the second moved over the first: how well they fit, the more the better, and by how much."""

    fit: float
    first: int
    second: int
    rows: int
    columns: int


def _overlaps(stack: Small, lying: Sequence[NDArray[np.uint8]], copies: Pairs) -> Pairs:
    """Tiles: moved over one another in the coarse images, and where these fit, looked at in the finer ones."""
    count = len(stack)
    # of very many, those near in the order of their names
    reach = max(1, _PAIRS // count)
    near = [(i, j) for i in range(count) for j in range(i + 1, min(count, i + 1 + reach)) if (i, j) not in copies]
    if not near:
        return {}
    height, width = np.min([image.shape for image in lying], axis=0)  # which rounding makes differ
    fine = _own(np.stack([_evened(image[:height, :width].astype(np.float32)) for image in lying]))
    by = max(height, width) / max(stack.shape[1:])
    some = near[:: max(1, 3 * len(near) // _BY_CHANCE)]
    highest = 0.0
    for turned, fine_turned in zip(_turned(stack), _turned(fine), strict=True):
        for moved in sorted(_moved(stack, turned, some), reverse=True)[: _CLOSELY * _CLOSELY]:
            highest = max(highest, _closely(fine[moved.first], fine_turned[moved.second], moved, by)[0])
    best: list[list[_Moved]] = [[] for _ in range(count)]
    for moved in _moved(stack, stack, near):
        best[moved.first].append(moved)
        best[moved.second].append(moved)
    found: Pairs = {}
    for moved in {moved for others in best for moved in sorted(others, reverse=True)[:_CLOSELY]}:
        fit, strength = _closely(fine[moved.first], fine[moved.second], moved, by)
        if strength >= _OVERLAP and fit > _FAR_BEYOND * highest:
            found[moved.first, moved.second] = "overlap", strength
    return found


def _fit(pixels: Any, alike: Any) -> Any:
    """How improbable a correlation of so many pixels is, 0 in the mean of independent images."""
    return -pixels * np.log1p(-(np.clip(alike, 0, 0.99) ** 2))


def _moved(stack: Small, others: Small, pairs: Sequence[tuple[int, int]]) -> Iterator[_Moved]:
    """For each pair where the upper left corner of the second lies in the first, if both show something in common."""
    _, height, width = stack.shape
    size = fft.next_fast_len(2 * height, real=True), fft.next_fast_len(2 * width, real=True)
    ones = fft.rfft2(np.ones((height, width), np.float32), size)
    shared = np.asarray(fft.irfft2(np.conj(ones) * ones, size))
    enough = shared >= _SHARED * height * width
    waves, other_waves = (np.conj(fft.rfft2(others, size)), np.asarray(fft.rfft2(stack, size)))
    # strength of each image in what the other one covers
    strengths = np.sqrt(np.maximum(fft.irfft2(fft.rfft2(stack**2, size) * np.conj(ones), size), 1.0))
    other_strengths = np.sqrt(np.maximum(fft.irfft2(ones * np.conj(fft.rfft2(others**2, size)), size), 1.0))
    for i, j in pairs:
        alike = fft.irfft2(other_waves[i] * waves[j], size) / (strengths[i] * other_strengths[j])
        fit = np.where(enough, _fit(shared, alike), 0)
        row, column = (int(place) for place in np.unravel_index(int(fit.argmax()), size))
        rows, columns = row if row < height else row - size[0], column if column < width else column - size[1]
        yield _Moved(float(fit[row, column]), i, j, rows, columns)


def _closely(first: Small, second: Small, moved: _Moved, by: float) -> tuple[float, float]:
    """Fit and correlation of two finer images where they overlap, the best near a place.

    Args:
        first, second: of one shape.
        moved: the place.
        by: as many times as large they are.
    """
    best = 0.0, 0.0
    height, width = first.shape
    middle = round(moved.rows * by), round(moved.columns * by)
    for down in range(middle[0] - _SEARCH, middle[0] + _SEARCH + 1):
        for right in range(middle[1] - _SEARCH, middle[1] + _SEARCH + 1):
            here = first[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            there = second[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
            if here.size >= _SHARED / 2 * first.size:
                norm = float(np.sqrt((here * here).sum() * (there * there).sum()))
                alike = float((here * there).sum()) / max(norm, 1e-6)
                best = max(best, (float(_fit(here.size, alike)), alike))
    return best

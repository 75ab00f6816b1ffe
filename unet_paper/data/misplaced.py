"""Masks and points that do not lie on the cells of their images: of another image, moved, turned, or in another unit.

Rules over the numbers of :mod:`unet_paper.data.survey`, as those of :mod:`unet_paper.data.findings`.
"""

import math
import statistics
from collections.abc import Callable, Iterator

import numpy as np

from unet_paper.data.finding import Finding
from unet_paper.data.outline_fit import BY_CHANCE, EXCHANGED, ON_THE_EDGES
from unet_paper.data.survey import AT_HOME, SLIP, ImageFacts, Survey

__all__ = ["OtherFit", "misplaced"]

OtherFit = Callable[[ImageFacts, ImageFacts], float]

# images whose masks are looked for among those of others where most lie nowhere, and of how many: it takes a while
_TRIED, _OTHERS = 6, 40

# of height and width, that points in another unit leave empty at least: nearer to pixels they lie within their cells
_EMPTY = 0.1
# of another image's points: those of an image of seven cells come to 6, of the wrong one to 3
_ON_SOMETHING = 4.5
# in the mean of all images: outlines of others come to 1 to 1.6, right ones to 10 and more
_NOWHERE = 2.0
_TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "transposed, rows for columns",
    6: "turned by 90 degrees clockwise",
    7: "transposed along the other diagonal",
    8: "turned by 90 degrees anticlockwise",
}


def misplaced(found: Survey, other_fit: OtherFit | None = None) -> list[Finding]:
    """Of outlines, where they would lie better, or else that they lie nowhere; of points the same.

    Args:
        found: the survey.
        other_fit: see ``findings.findings``.
    """
    drawn = [*_turned(found), *_scaled(found), *_wide_or_narrow(found)]
    outlines = [*drawn, *_swapped(found, other_fit), *_shifted(found)]
    points = [*_turned_points(found), *_exchanged_points(found, other_fit), *_in_one_corner(found)]
    return [*(outlines or _nowhere(found)), *points]


def _outlined(found: Survey) -> list[ImageFacts]:
    return [image for image in found.images if np.isfinite(image.outline) and not image.inverted]


def _judged(found: Survey) -> list[ImageFacts]:
    """Images whose outlines can be judged: with cells, in a folder where outlines mostly lie on edges."""
    outlined = [image for image in _outlined(found) if _as_drawn(image)]
    good = sum(image.outline >= ON_THE_EDGES for image in outlined)
    return outlined if 2 * good > len(outlined) or len(outlined) <= 2 else []


def _as_drawn(image: ImageFacts) -> bool:
    """Whether it is not known already that its mask is turned, scaled, or drawn wide or narrow."""
    return image.turn == 1 and image.scale == 1 and image.growth == 0


def _turned(found: Survey) -> Iterator[Finding]:
    for turn, words in _TURNS.items():
        images = [image for image in found.images if image.turn == turn]
        if images:
            yield Finding(
                "mask is turned",
                [file for image in images for file in (image.image, image.label)],
                f"the outlines lie on no edges of the image, and would if the mask were {words}",
                "export image and mask with the same side up",
            )


def _scaled(found: Survey) -> Iterator[Finding]:
    for factor in sorted({image.scale for image in found.images} - {1.0}):
        images = [image for image in found.images if image.scale == factor]
        yield Finding(
            "mask is scaled",
            [file for image in images for file in (image.image, image.label)],
            f"the outlines lie on no edges of the image, and would with coordinates {factor:.4g} times as large",
            "export them in pixels of this very image, not of a smaller or larger one, nor in micrometres",
        )


def _wide_or_narrow(found: Survey) -> Iterator[Finding]:
    for wide in (True, False):
        images = [image for image in _outlined(found) if (image.growth < 0 if wide else image.growth > 0)]
        if images:
            by = abs(round(statistics.median(image.growth for image in images)))
            yield Finding(
                "mask is drawn wide" if wide else "mask is drawn narrow",
                [file for image in images for file in (image.image, image.label)],
                f"the outlines lie about {by} px {'outside' if wide else 'inside'} the edges of the image, all around",
                f"{'shrink' if wide else 'grow'} the cells by that much: they are learnt as they are drawn; right if "
                "cells end there and the edges are of something else, as of nuclei or a halo",
            )


def _swapped(found: Survey, other_fit: OtherFit | None) -> Iterator[Finding]:
    if other_fit is None:
        return
    judged = _judged(found)
    # where outlines mostly lie nowhere, names may be one off in all: some of them tell
    suspects = judged or [image for image in _outlined(found) if _as_drawn(image)][:_TRIED]
    for image in suspects:
        if image.outline >= BY_CHANCE or image.best_outline >= 2 * ON_THE_EDGES:
            continue
        others = [other for other in found.images if other is not image and other.shape == image.shape and other.areas]
        fits = [(other_fit(image, other), other) for other in others[: None if judged else _OTHERS]]
        best, whose = max(fits, key=lambda pair: pair[0], default=(0.0, image))
        if best >= ON_THE_EDGES and best > image.best_outline - 1:
            yield Finding(
                "mask of another image",
                [image.image, image.label],
                f"the outlines lie nowhere near an edge of this image, those of {whose.label} do",
                "give each image its own mask" + ("" if judged else "; masks of others here lie no better"),
            )
        elif not _is_shifted(image) and len(judged) > 2 and image.outline < 1:
            yield Finding(
                "mask of another image",
                [image.image, image.label],
                "the outlines lie nowhere near an edge of this image, unlike those of the other images",
                "look at both one over the other; is it the mask of an image that is not here?",
            )


def _is_shifted(image: ImageFacts) -> bool:
    # smoothing and a mask drawn a little wide move the best place by 1 or 2 px; a third of the image is no slip
    distance = max(map(abs, image.best_shift))
    near = distance <= min(image.shape) / 3
    clearly = image.best_outline >= ON_THE_EDGES and image.outline < AT_HOME * image.best_outline
    return distance >= SLIP and near and clearly and _as_drawn(image)


def _shifted(found: Survey) -> Iterator[Finding]:
    shifted = [[image] for image in _judged(found) if _is_shifted(image)]
    for images in shifted or [_all_shifted(found)]:
        if images:
            rows, columns = np.rint(np.median([image.best_shift for image in images], axis=0)).astype(int)
            yield Finding(
                "mask is shifted",
                [file for image in images for file in (image.image, image.label)],
                f"the outlines would lie on the image's edges {rows:+d} rows and {columns:+d} columns from here",
                "save image and mask with one frame, without cropping one of them",
            )


def _all_shifted(found: Survey) -> list[ImageFacts]:
    """Images of a folder in which masks mostly lie beside their cells, by about the same."""
    outlined = _outlined(found)
    shifted = [image for image in outlined if _is_shifted(image)]
    if len(shifted) < 2:
        return []
    middle = np.median([image.best_shift for image in shifted], axis=0)
    alike = [image for image in shifted if np.abs(image.best_shift - middle).max() <= 2]
    return alike if 2 * len(alike) > len(outlined) else []


def _nowhere(found: Survey) -> Iterator[Finding]:
    """Where no mask lies on anything."""
    outlined = _outlined(found)
    fits = [image.outline for image in outlined]
    # as of masks of other images: they keep away from borders, too, and lie a little better than anywhere
    if len(fits) > 2 and max(fits) < _ON_SOMETHING and statistics.mean(fits) < _NOWHERE:
        yield Finding(
            "masks lie on nothing",
            [image.label for image in outlined],
            "in no image do the outlines lie on edges more than they would anywhere",
            "look at masks over images; are they of another experiment, or the cells in another channel (--channel 1)",
        )


def _turned_points(found: Survey) -> Iterator[Finding]:
    """Of all images together: of the few points of one, chance may tell anything."""
    images = [image for image in found.images if image.pointed and image.areas]
    if len(images) < 2:
        return
    known = min(len(image.point_fits) for image in images)
    # of images that have nothing to do with their points, the sum of n has the standard deviation sqrt(n)
    mean = np.abs(np.mean([image.point_fits[:known] for image in images], axis=0))
    turn = int(mean.argmax()) + 1
    pooled = mean[turn - 1] * math.sqrt(len(images))
    # cells keep away from borders, so that wrong points, which do so too, lie a little better than anywhere
    if mean[0] < min(BY_CHANCE, mean[turn - 1] / 2) and mean[turn - 1] >= BY_CHANCE and pooled >= ON_THE_EDGES:
        exchanged = turn == EXCHANGED
        yield Finding(
            "points are turned",
            [image.label for image in images],
            "the points lie where the images have nothing, and would lie on something if "
            + ("x and y were exchanged" if exchanged else f"they were {_TURNS[turn]}"),
            "y counts rows from the top, x columns from the left; "
            + ("in a table give them each other's name" if exchanged else "export them from images the same side up"),
        )


def _exchanged_points(found: Survey, other_fit: OtherFit | None) -> Iterator[Finding]:
    """Two images at least, each with nothing at its points, and something at those of another one."""
    images = [image for image in found.images if image.pointed and image.areas]
    suspects = [image for image in images if abs(image.point_fits[0]) < BY_CHANCE]
    if other_fit is None:
        return
    hits = []
    for image in suspects[:_TRIED]:
        others = [other for other in images if other is not image and other.shape == image.shape][:_OTHERS]
        best, whose = max(((abs(other_fit(image, other)), other.image) for other in others), default=(0.0, ""))
        if best >= max(_ON_SOMETHING, abs(image.point_fits[0]) + BY_CHANCE):
            hits.append((image, whose))
    if len(hits) >= 2:
        yield Finding(
            "points of another image",
            [file for image, _ in hits for file in (image.image, image.label)],
            f"the points lie where these images have nothing; those of {hits[0][1]} lie on something in "
            f"{hits[0][0].image}",
            "give each image its own points; where names are one off in all, all of them",
        )


def _in_one_corner(found: Survey) -> Iterator[Finding]:
    """Points have no outline that could lie on an edge; in micrometres they leave the right and the bottom empty.

    A table of points rarely says its unit. Cells that fill the images reach both borders alike: of all points none
    would by chance stay away from one once in a million folders. A clump in the middle stays away from all four.
    """
    images = [image for image in found.images if image.pointed and image.areas]
    if not images:
        return
    # fractions of height and width that no image has a point in
    top, left, bottom, right = (
        min(image.margins[side] / image.shape[side % 2] for image in images) for side in range(4)
    )
    points = sum(len(image.areas) for image in images)
    by_chance = ((1 - bottom) * (1 - right)) ** points
    if by_chance < 1e-6 and min(bottom, right) > _EMPTY and bottom > 4 * top and right > 4 * left:
        yield Finding(
            "points in one corner",
            [image.label for image in images],
            f"of {points} points none lies in the lower {bottom:.0%} or the right {right:.0%} of any image",
            "export them in pixels of these very images, not of smaller ones, nor in micrometres; or put a point in "
            "every cell; if there are no cells in the rest, nothing",
        )

"""Which images validate: none whose like is learnt from, as far as there are others.

Images that show the same (:mod:`unet_paper.data.relatives`) stay on one side. What names and small pictures tell
besides are films, of which single pairs of frames are hardly alike: where images whose names differ in one number alone
are more alike the nearer these numbers are, they are frames of one field, be the number of the time first or last.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet_paper.data.relatives import FURTHER_ON, Relation, likeness_of_frames
from unet_paper.data.survey import ImageFacts, Survey

__all__ = ["FEWEST", "HeldOut", "hold_out"]

FEWEST = 4  # images of which one can be held out
_MOST, _SHARE, _LARGEST_SHARE = 12, 0.15, 0.3  # images to be held out, and part of all
_AT_LEAST = 0.75  # of the images to be held out, in each fold
# of the frames of a film, those that are alike one on the other side of a run's end, at most
_BESIDE = 0.5


@dataclass(frozen=True)
class HeldOut:
    """What validates.

    Attributes:
        of_image: fold of each image, of which fold 0 validates.
        spread: whether each fold takes images from all over, not a run of neighbours.
        listed: whether it is neither, so that the folds must be written down.
        torn: relations that runs, or images from all over, would have torn, where the folds are others therefore.
        known: relations of the images of fold 0 to those that are learnt from.
    """

    of_image: Sequence[int]
    spread: bool = False
    listed: bool = False
    torn: Sequence[Relation] = ()
    known: Sequence[Relation] = ()

    @property
    def folds(self) -> int:
        """How many there are."""
        return max(self.of_image) + 1

    def share(self, known: Sequence[Relation]) -> float:
        """Of the images of fold 0, those that some relations are of."""
        held_out = {number for number, fold in enumerate(self.of_image) if fold == 0}
        return len(held_out & {number for relation in known for number in relation[:2]}) / len(held_out)


def hold_out(found: Survey) -> HeldOut:
    """How images are shared out over folds, of which fold 0 validates.

    Whole groups of related images are held out, where that takes no more than some; else a run of one, as of a film.
    Who says which images belong together, as of one patient or well, has the last word.

    Args:
        found: the survey; of fewer than 4 images a part of each is held out, and all relations are known.
    """
    count = len(found.images)
    related = [*found.relations, *_frames(found.images)]
    if found.folds:
        return HeldOut(found.folds, listed=True, known=_torn(related, found.folds, 0))
    if count < FEWEST:
        return HeldOut([0] * count, known=related)
    wanted = min(_MOST, max(1, round(_SHARE * count)))
    folds = max(2, round(count / wanted))
    runs = found.in_sequence
    usual = _in_runs(range(count), folds) if runs else [number % folds for number in range(count)]
    torn = _torn(related, usual)
    of_film = runs and all(relation.how == "scene" for relation in torn)
    if of_film and len({number for relation in torn for number in relation[:2]}) <= _BESIDE * count:
        torn = []  # where a run ends, it goes on
    if torn:
        groups = _groups(count, related)
        in_groups = [number for group in groups for number in group]
        chosen = _apart(groups, folds, wanted) or _in_runs(in_groups, folds)
        if chosen != usual:
            return HeldOut(chosen, listed=True, torn=torn, known=_torn(related, chosen, 0))
    return HeldOut(usual, spread=not runs, known=_torn(related, usual, 0))


def _in_runs(order: Sequence[int], folds: int) -> list[int]:
    """Fold of each image, in runs of an order that are as long as can be alike."""
    count = len(order)
    of_image = [0] * count
    for fold in range(folds):
        for place in range(fold * count // folds, (fold + 1) * count // folds):
            of_image[order[place]] = fold
    return of_image


def _torn(related: Sequence[Relation], of_image: Sequence[int], fold: int | None = None) -> list[Relation]:
    """Relations between folds, or between one and all others."""
    sides = ((of_image[relation.first], of_image[relation.second]) for relation in related)
    return [
        relation
        for relation, (one, other) in zip(related, sides, strict=True)
        if one != other and fold in (None, one, other)
    ]


def _groups(count: int, related: Sequence[Relation]) -> list[list[int]]:
    """Images that are related, by others of them too, in the order of their first."""
    group = {number: [number] for number in range(count)}
    for relation in related:
        one, other = group[relation.first], group[relation.second]
        if one is not other:
            one += other
            group.update(dict.fromkeys(other, one))
    return [sorted(numbers) for first, numbers in group.items() if first == min(numbers)]


def _apart(groups: Sequence[Sequence[int]], folds: int, wanted: int) -> list[int] | None:
    """Fold of each image, no group torn; None where too few or too many images would be held out.

    The largest groups first, each goes where there is most room; images without relatives are spread in their order.
    """
    count = sum(map(len, groups))
    for number in range(min(folds, len(groups)), 1, -1):
        members: list[list[int]] = [[] for _ in range(number)]
        for group in sorted(groups, key=len, reverse=True):
            min(members, key=len).extend(group)
        if min(map(len, members)) >= _AT_LEAST * wanted:
            members.sort(key=lambda fold: max(0, abs(len(fold) - wanted) - 1))
            if len(members[0]) > max(wanted + 1, _LARGEST_SHARE * count):
                return None
            of_image = [0] * count
            for fold, numbers in enumerate(members):
                for image in numbers:
                    of_image[image] = fold
            return of_image
    return None


def _frames(images: Sequence[ImageFacts]) -> list[Relation]:
    """Of films, each frame and the next, if there are several in turns."""
    small = [image.thumbnail for image in images if image.thumbnail is not None]
    if len(small) < len(images):
        return []
    # numbers lie in the odd places
    names = [re.split(r"(\d+)", image.image) for image in images]
    best: tuple[float, list[list[int]]] = 0.0, []
    for place in range(1, max(map(len, names)), 2):
        films: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, parts in enumerate(names):
            if place < len(parts):
                films[*parts[:place], *parts[place + 1 :]].append((int(parts[place]), number))
        ordered = [[number for _, number in sorted(film)] for film in films.values() if len(film) > FURTHER_ON]
        if len(ordered) > 1:
            best = max(best, (likeness_of_frames(np.stack(small), ordered), ordered))
    return [
        Relation(min(pair), max(pair), "scene", 1.0)  # names say it, too
        for film in best[1]
        if best[0] > 0
        for pair in itertools.pairwise(film)
    ]

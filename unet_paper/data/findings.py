"""What looks wrong in a folder of images and masks: rules over the numbers of :mod:`unet_paper.data.survey`.

Every rule is one function, every threshold in it a number with a reason. A finding is a suspicion that a person looks
at; none of them ends a run.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import stats

from unet_paper.data.datasets import Case
from unet_paper.data.finding import CHANNELS, PHOTOGRAPH, Finding, grouped, no_image, no_mask
from unet_paper.data.hold_out import hold_out
from unet_paper.data.misplaced import OtherFit, misplaced
from unet_paper.data.outline_fit import BY_CHANCE
from unet_paper.data.partly_drawn import by_chance, drawn_part
from unet_paper.data.pixel_size import TOLERANCE
from unet_paper.data.relatives import Relation
from unet_paper.data.survey import DOT, ImageFacts, Survey

__all__ = ["case_of", "findings"]

_CLASSES = 8  # at most, that values of masks may be
# correlation of images that show the same, from which it is said
_EVIDENT = 0.6
_OF_8_BITS = 255
# of what looks like cells between them, that is beyond them, from which it is said; and of the cells' places
_AS_MUCH, _UNLIKELY = 0.5, 1e-4
# cells of an image, and images of a size of cells, that tell it; and by which sizes differ as magnifications do
_SEVERAL, _MAGNIFIED = 3, 1.6
_SHOWN = {
    "copy": "copies of others, be they turned, mirrored, dimmed or blurred",
    "overlap": "parts that others show, too, as tiles that overlap do",
    "scene": "one field several times, as frames of a film do",
}


def findings(found: Survey, other_fit: OtherFit | None = None) -> list[Finding]:
    """All findings of a survey, those that spoil a training first.

    Args:
        found: the survey.
        other_fit: how well the mask of the second image lies on the edges of the first (``outline_fit``), and its
            points on something (``point_fit``); asked for suspicious images only. Without it masks and points of
            another image are not looked for.
    """
    rules: Sequence[Iterable[Finding]] = (
        _unreadable(found),
        _photographs(found),
        _unusable(found),
        _channels(found),
        _channel_names(found),
        misplaced(found, other_fit),
        _dots(found),
        _inverted(found),
        _empty(found),
        _duplicates(found),
        _same_mask(found),
        _held_out(found),
        _partly_drawn(found),
        _giants(found),
        _apart(found),
        _hollow(found),
        _pieces(found),
        _specks(found),
        _types(found),
        _outliers(found),
        _hot_pixels(found),
        _negatives(found),
        _pixel_sizes(found),
        _magnifications(found),
        _one_image(found),
        _left_out(found),
        _other_files(found),
    )
    return [finding for rule in rules for finding in rule]


def _unreadable(found: Survey) -> Iterator[Finding]:
    yield from grouped(no_image(image, why) for image, why in found.unreadable)


def _channels(found: Survey) -> Iterator[Finding]:
    most = max(image.channels for image in found.images)
    fewer = [image.image for image in found.images if image.stored_channels != most]
    if most > 1 and fewer:
        counts = sorted({image.stored_channels for image in found.images})
        yield Finding(
            CHANNELS,
            fewer,
            f"images have {' or '.join(map(str, counts))} channels, and a network takes as many of each",
            "save all alike, grey ones as RGB; or take one channel of each, --channel 0 in check and train",
        )


def _channel_names(found: Survey) -> Iterator[Finding]:
    """The same names in another order; other names say nothing: programs write file names and slices into them."""
    orders: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in found.images:
        if image.channels > 1:
            orders[tuple(sorted(image.channel_names))][image.channel_names].append(image.image)
    for named in orders.values():
        if len(named) > 1:
            usual = max(named, key=lambda names: len(named[names]))
            listed = " and ".join("(" + ", ".join(names) + ")" for names in named)
            yield Finding(
                "channels in another order",
                [file for names, files in named.items() if names != usual for file in files],
                f"{listed}: they are taken by their place",
                f'say which by name, in check and train: --channel "[{", ".join(usual)}]"',
            )


def _dots(found: Survey) -> Iterator[Finding]:
    files = [image.label for image in found.images if image.dotted]
    if files:
        yield Finding(
            "cells are dots",
            files,
            f"most cells have {DOT} px or fewer: what stands for a cell would be learnt as all of it",
            "outline the cells; or annotate by points: in the mask's place a table with the columns y and x of each "
            "cell, in pixels",
        )


def _photographs(found: Survey) -> Iterator[Finding]:
    files = [image.label for image in found.images if image.trouble == "photograph"]
    if files:
        yield Finding(
            PHOTOGRAPH,
            files,
            "neighbouring pixels differ as grey values do: an image lies where a mask should",
            "put the mask there, one value a cell on a background of 0",
        )


def _unusable(found: Survey) -> Iterator[Finding]:
    troubled = (image for image in found.images if image.trouble not in ("", "photograph"))
    yield from grouped(no_mask(image.label, image.trouble) for image in troubled)


def _inverted(found: Survey) -> Iterator[Finding]:
    images = [image for image in found.images if image.inverted]
    if images:
        values = {image.widest_id for image in images}
        most = 2 * len(images) > len(found.images) and len(values) == 1
        say = f"; or say --background_value {min(values)} in check and train" if most else ""
        shares = f"{min(image.foreground for image in images):.0%} to {max(image.foreground for image in images):.0%}"
        yield Finding(
            "mask is inverted",
            [image.label for image in images],
            f"one cell lies around all else and covers most of the image ({shares} are cell)",
            f"swap the mask's two values, so that 0 is the background{say}",
        )


def _empty(found: Survey) -> Iterator[Finding]:
    files = [image.label for image in found.images if not image.areas and not image.trouble]
    if files:
        yield Finding(
            "mask is empty",
            files,
            "no cell is drawn: the network learns that there is none in this image",
            "right if there is none; otherwise draw them, or take the image out",
        )


def _duplicates(found: Survey) -> Iterator[Finding]:
    same: dict[str, list[ImageFacts]] = defaultdict(list)
    for image in found.images:
        same[image.image_hash].append(image)
    groups = [group for group in same.values() if len(group) > 1]
    differ = [group for group in groups if len({image.label_hash for image in group}) > 1]
    alike = [group for group in groups if group not in differ]
    if differ:
        yield Finding(
            "one image, different masks",
            [image.image for group in differ for image in group],
            f"{_counted(differ)}, and their masks differ",
            "keep the right mask",
        )
    if alike:
        yield Finding(
            "image is there twice",
            [image.image for group in alike for image in group],
            f"{_counted(alike)}, as it is, turned or mirrored: with one in training and one held out, scores are too "
            "good",
            "keep one; training turns and mirrors images by itself",
        )


def _counted(groups: Sequence[Sequence[ImageFacts]]) -> str:
    files = sum(map(len, groups))
    return f"{files} files hold the same picture" if len(groups) == 1 else f"{files} files hold {len(groups)} pictures"


def _same_mask(found: Survey) -> Iterator[Finding]:
    """The same cells in images that differ: a frame's mask given to all of a film, a table's line copied."""
    same: dict[str, list[ImageFacts]] = defaultdict(list)
    for image in found.images:
        if image.drawn_hash:
            same[image.drawn_hash].append(image)
    copies = {found.images[relation.second].image for relation in found.relations if relation.how == "copy"}
    own = ([image for image in group if image.image not in copies] for group in same.values())
    groups = [group for group in own if len({image.image_hash for image in group}) > 1]
    if groups:
        counts = " or ".join(map(str, sorted({len(group) for group in groups})))
        times = f", in {len(groups)} places" if len(groups) > 1 else ""
        yield Finding(
            "one mask for several images",
            [file for group in groups for image in group for file in (image.image, image.label)],
            f"{counts} images have the very same cells{times}",
            "give each image its own mask; right if all show one field, in other stains or planes of focus: they are "
            "held out together then, as far as there are others",
        )


def _held_out(found: Survey) -> Iterator[Finding]:
    """What shows the same, where it would have been torn, and where it is; of a film that is cut nothing is said."""
    held = hold_out(found)
    named = {name for finding in (*_duplicates(found), *_same_mask(found)) for name in finding.files}
    torn, known = (
        [one for one in related if _is_evident(one) and not {found.images[k].image for k in one[:2]} <= named]
        for related in (held.torn, held.known)
    )
    mended = [one for one in torn if held.of_image[one.first] == held.of_image[one.second]]
    if mended and not (found.in_sequence and all(one.how == "scene" for one in torn)):
        yield Finding(
            "images show the same",
            _of_both(found, mended),
            f"{_in_words(mended)}: one learnt from and another held out, scores would be too good",
            "nothing: they are held out together. Copies may go: training turns, mirrors and dims images by itself",
        )
    if known and held.share(known) > 0.5:
        yield Finding(
            "held-out images are known",
            _of_both(found, known),
            f"{_in_words(known)}: what validates shows what is learnt from as well, and scores are too good",
            "add images of other fields, with masks: they are held out instead; or take copies out",
        )


def _is_evident(relation: Relation) -> bool:
    """Whether a person would see it, too."""
    return relation.strength >= _EVIDENT


def _of_both(found: Survey, related: Sequence[Relation]) -> list[str]:
    return list(dict.fromkeys(found.images[number].image for relation in related for number in relation[:2]))


def _in_words(related: Sequence[Relation]) -> str:
    hows = {relation.how for relation in related}
    return "; ".join(words for how, words in _SHOWN.items() if how in hows)


def _partly_drawn(found: Survey) -> Iterator[Finding]:
    """Cells in a part of each image, with what looks like cells beyond: debris in one or two, not in most."""
    drawn = [image for image in found.images if image.areas and not image.inverted]
    # masks that lie on no edges are moved, scaled or another image's
    files = [image for image in drawn if image.beyond >= _AS_MUCH and image.outline >= BY_CHANCE]
    parts = [drawn_part(image.margins, image.shape, statistics.median(image.areas)) for image in files]
    chances = [max(by_chance(part, len(image.areas)), 1e-99) for part, image in zip(parts, files, strict=True)]
    mostly = len(files) > 1 and 2 * len(files) > len(drawn)
    if files and (mostly or stats.combine_pvalues(chances).pvalue < _UNLIKELY):
        yield Finding(
            "mask covers a part of the image",
            [image.label for image in files],
            "all cells lie in a part of their image, and what lies beyond looks as they do: it is learnt as background",
            "draw those, too; or crop image and mask alike; or fill what nobody has looked at with a value that no "
            "cell has, and say it, --ignore_value, in check and train; if there are no cells, nothing",
        )


def _giants(found: Survey) -> Iterator[Finding]:
    """What is no cell but a part of the image: not looked at, or background of a second kind."""
    usual, giants = _usual(found), _of_giants(found)
    for value, images in giants.items():
        yield Finding(
            "cell as large as a part of the image",
            [image.label for image in images],
            f"a cell, of value {value} in the mask, is over 10 times as large as the usual one ({usual:.0f} px)",
            f"{_as_unknown(found, value, images)}; erase it, if it is background",
        )


def _apart(found: Survey) -> Iterator[Finding]:
    """Smaller parts that nobody has looked at, by the value that most programs have for them."""
    said = _of_giants(found)
    for value in sorted({image.apart for image in found.images} - {0, *said}):
        images = [image for image in found.images if image.apart == value]
        yield Finding(
            "id far above the others",
            [image.label for image in images],
            f"{value}, the largest number of its bits, stands among low ids, and counts as one cell",
            _as_unknown(found, value, images, " or a border"),
        )


def _as_unknown(found: Survey, value: int, images: Sequence[ImageFacts], or_else: str = "") -> str:
    """How what has a value in some masks becomes unknown, and no cell of another one with it."""
    labels = {image.label for image in images}
    if labels & set(found.made):
        return "in the drawing give it the class, or the name, Ignore, if it means unknown, or Background"
    if all(other.largest_id < value for other in found.images if other.label not in labels):
        return f"say --ignore_value {value} in check and train, if it means unknown{or_else}"
    return (
        f"if it means unknown{or_else}, fill it with a value that no cell has anywhere, as {value} is one elsewhere: "
        "with 65535 in 16 bits, and say --ignore_value 65535 in check and train"
    )


def _hollow(found: Survey) -> Iterator[Finding]:
    """What lies around the cells, mostly: of one cell with a large hole nothing is said."""
    files = [image.label for image in found.images if _is_hollow(image)]
    if files:
        yield Finding(
            "outlines that are not filled",
            files,
            f"{sum(image.hollow for image in found.images)} cells are more hole than cell",
            "fill them, in ImageJ by Process > Binary > Fill Holes; if the holes are the cells, and what lies between "
            "is drawn, say its value, --background_value, in check and train",
        )


def _is_hollow(image: ImageFacts) -> bool:
    return 2 * image.hollow > len(image.areas)


def _usual(found: Survey) -> float:
    """Area of the middle one of all cells, px."""
    return float(np.median([area for image in found.images for area in image.areas] or [0]))


def _of_giants(found: Survey) -> dict[int, list[ImageFacts]]:
    """Images with a cell as large as a part of them, by its value."""
    usual = _usual(found)
    giants: dict[int, list[ImageFacts]] = defaultdict(list)
    for image in found.images:
        largest = max(image.areas, default=0)
        at_border = largest > max(image.whole_areas, default=0)
        # cells that are whole differ by ten times within one set
        if at_border and largest > max(10 * usual, 0.2 * image.shape[0] * image.shape[1]) and not image.inverted:
            giants[image.widest_id].append(image)
    return giants


def _pieces(found: Survey) -> Iterator[Finding]:
    broken = [image for image in found.images if image.in_pieces]
    largest = max(image.largest_id for image in found.images)
    classes = f"; or --annotation classes --out_channels {largest + 1} where values are kinds of cells"
    # of black and white masks among masks of ids, which the former's annotation refuses
    mixed = any(len(image.areas) > 1 for image in found.images) and any(len(image.areas) == 1 for image in broken)
    binary = "either, by which a mask of one value is black and white, others hold ids" if mixed else "binary"
    cut_off = [image for image in broken if image.largest_id == _OF_8_BITS and len(image.areas) >= 0.9 * _OF_8_BITS]
    if cut_off:
        yield Finding(
            "ids are cut off at 8 bits",
            [image.label for image in cut_off],
            f"{sum(image.in_pieces for image in cut_off)} ids are of two cells and more, and none is above "
            f"{_OF_8_BITS}: what was 256 is background now, 257 is 1",
            "export the masks anew, with 16 bits",
        )
        broken = [image for image in broken if image not in cut_off]
    if broken:
        yield Finding(
            "ids in several pieces",
            [image.label for image in broken],
            f"{sum(image.in_pieces for image in broken)} ids lie in several pieces, which count as one cell",
            "right for a cell that is hidden in part; else give each piece an id, or, of black and white masks, say "
            f"--annotation {binary}{classes if 2 <= largest <= _CLASSES else ''}",
        )


def _specks(found: Survey) -> Iterator[Finding]:
    # pieces of a thin outline are none
    dotted = [image for image in found.images if image.specks and not _is_hollow(image)]
    if dotted:
        yield Finding(
            "specks",
            [image.label for image in dotted],
            f"{sum(image.specks for image in dotted)} pieces are smaller than 2 % of a cell: slips of a pen?",
            "erase them",
        )


def _types(found: Survey) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for image in found.images:
        kinds[image.dtype].append(image.image)
    if len(kinds) > 1:
        fewest = min(kinds.values(), key=len)
        counted = ", ".join(f"{len(files)} {kind}" for kind, files in sorted(kinds.items()))
        yield Finding(
            "types differ",
            fewest,
            f"{counted}: black and white are not the same in both",
            "save all with the same number of bits, without stretching the contrast",
        )


def _outliers(found: Survey) -> Iterator[Finding]:
    highs = np.log10([max(image.high, 1e-6) for image in found.images])
    if len(highs) < 4:
        return
    middle = float(np.median(highs))
    spread = 1.4826 * float(np.median(np.abs(highs - middle)))
    # exposures of fluorescence differ ten times within one set of nuclei
    far = np.abs(highs - middle) > max(1.3, 5 * spread)
    usual = statistics.mode(image.dtype for image in found.images)  # of others it is said already
    files = [image.image for image, is_far in zip(found.images, far, strict=True) if is_far and image.dtype == usual]
    if files:
        yield Finding(
            "another brightness",
            files,
            "twenty times brighter or darker than the middle one of the images",
            "was it saved with another number of bits, or cut off? Take it out, or save all alike",
        )


def _hot_pixels(found: Survey) -> Iterator[Finding]:
    """In 8 bits no pixel is far from the others."""
    hot = [image for image in found.images if image.hot]
    if hot:
        worst = max(hot, key=lambda image: abs(image.hottest - image.largest))
        yield Finding(
            "hot pixels",
            [image.image for image in hot],
            f"pixels far from all others: {sum(image.hot for image in hot)}, such as {worst.hottest:g} where others "
            f"reach from {worst.smallest:g} to {worst.largest:g}",
            "nothing, if a camera's dead or hot pixels: black and white are chosen without them; they are cut off",
        )


def _negatives(found: Survey) -> Iterator[Finding]:
    """Cells that are clearly bright in some images and clearly dark in others; in phase contrast they are neither."""
    clear = [image for image in found.images if abs(image.contrast) >= 1 and not image.inverted and not image.pointed]
    groups = [[image for image in clear if (image.contrast > 0) == bright] for bright in (False, True)]
    if all(groups):
        fewer = min(groups, key=len)
        yield Finding(
            "image is a negative",
            [image.image for image in fewer],
            f"cells are {'brighter' if fewer[0].contrast > 0 else 'darker'} than the rest, unlike in "
            f"{len(clear) - len(fewer)} other images",
            "swap black and white where they were swapped, in ImageJ by Edit > Invert; right if it is another stain",
        )


def _pixel_sizes(found: Survey) -> Iterator[Finding]:
    sides = {image.image: max(image.pixel_size) for image in found.images if image.pixel_size}
    if not sides or max(sides.values()) <= TOLERANCE * min(sides.values()):
        return
    middle = float(np.median(list(sides.values())))
    ratio = {file: max(side / middle, middle / side) for file, side in sides.items()}
    yield Finding(
        "pixel sizes differ",
        [file for file, by in ratio.items() if by > TOLERANCE] or list(sides),
        f"pixels of {min(sides.values()):.4g} to {max(sides.values()):.4g} um: cells of one size are of several in px",
        "train on images of one magnification; the network follows the pixel size of new images by itself",
    )


def _magnifications(found: Survey) -> Iterator[Finding]:
    """Images in two groups, by the size of their cells, with nothing in between, where files do not say why."""
    if any(_pixel_sizes(found)):
        return
    sized = sorted(
        (_diameter(image), image.image) for image in found.images if len(image.areas) >= _SEVERAL and not image.pointed
    )
    middles = [middle for middle, _ in sized]
    steps = [larger / smaller for smaller, larger in itertools.pairwise(middles)]
    cut = int(np.argmax(steps)) + 1 if steps else 0
    small, large = middles[:cut], middles[cut:]
    if min(len(small), len(large)) < _SEVERAL:
        return
    ratio = statistics.median(large) / statistics.median(small)
    within = max(small[-1] / small[0], large[-1] / large[0])
    if ratio >= _MAGNIFIED and steps[cut - 1] > 1.25 * within:
        fewer = sized[:cut] if len(small) <= len(large) else sized[cut:]
        yield Finding(
            "two sizes of cells",
            [file for _, file in fewer],
            f"cells of {len(small)} images are {statistics.median(small):.0f} px wide, those of {len(large)} "
            f"{statistics.median(large):.0f} px, and none are in between, as of two magnifications",
            "train each magnification by itself, or scale images and masks to one, the masks without interpolation; if "
            "cells are of two kinds, nothing",
        )


def _diameter(image: ImageFacts) -> float:
    """Of the middle one of an image's cells, those that are whole if there are any, px."""
    return 2 * (statistics.median(image.whole_areas or image.areas) / np.pi) ** 0.5


def _one_image(found: Survey) -> Iterator[Finding]:
    if len(found.images) == 1:
        yield Finding(
            "one image only",
            [found.images[0].image],
            "a block of it is held out, and its score says little about other images",
            "annotate a part of some more images; three small ones teach more than a large one",
        )


def _left_out(found: Survey) -> Iterator[Finding]:
    if found.left_out:
        yield Finding(
            "images are left out",
            found.left_out,
            "pictures of kinds that are not read, or folders of images, which are not looked into",
            "save them as TIFF or PNG beside the others, with their masks; or list all pairs in pairs.csv",
        )


def _other_files(found: Survey) -> Iterator[Finding]:
    # a note, a table and a thumbnail database are in many folders
    if found.other_files > max(10, len(found.images)):
        yield Finding(
            "many other files",
            [],
            f"{found.other_files} files are of kinds that are not taken; {len(found.images)} images are",
            "right if they are not images; others are converted first, see docs/images.md",
        )


def case_of(image: ImageFacts) -> Case:
    """The case that an entry of a survey is of."""
    return {"image": image.image, "label": image.label}

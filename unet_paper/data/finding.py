"""One thing that looks wrong in a folder of images and masks, and how it is said of several files."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unet_paper.data.folder_layout import AnnotatedImage

__all__ = ["UNUSABLE", "Finding", "grouped", "no_case", "no_image", "no_mask", "shown"]

PHOTOGRAPH, NO_MASK = "mask is a photograph", "mask cannot be used"
NO_IMAGE, CHANNELS = "image cannot be read", "numbers of channels differ"
# kinds of findings with which there can be no training
UNUSABLE = (PHOTOGRAPH, NO_MASK, NO_IMAGE, CHANNELS)
_MEND_IMAGE = "training refuses it too; mend it, or take it out with its mask"
_MEND_MASK = "training refuses it too; mend it first"


@dataclass(frozen=True)
class Finding:
    """One suspicion.

    Attributes:
        kind: a word for it, the same in ``check.json`` of every version.
        files: that it is about.
        what: was found.
        remedy: what to do.
    """

    kind: str
    files: Sequence[str]
    what: str
    remedy: str


def no_image(image: str, why: str) -> Finding:
    """Of an image that cannot be read."""
    return Finding(NO_IMAGE, [image], why, _MEND_IMAGE)


def no_mask(label: str, why: str) -> Finding:
    """Of a mask that cannot be used."""
    return Finding(NO_MASK, [label], why, _MEND_MASK)


def no_case(one: AnnotatedImage, why: str, image_is_read: bool) -> Finding:
    """Of an image that makes no case with its annotation."""
    return no_mask(str(one.annotation[0]), why) if image_is_read else no_image(str(one.image), why)


def grouped(found: Iterable[Finding]) -> list[Finding]:
    """One finding for all files of which the same is said, which does not name them once more."""
    files: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in found:
        what = one.what
        for file in one.files:
            what = what.removeprefix(f"{file}: ").replace(file, "it")
        files[one.kind, what, one.remedy] += one.files
    return [Finding(kind, named, what, remedy) for (kind, what, remedy), named in files.items()]


def shown(files: Sequence[str], limit: int) -> str:
    """The first files, each once, by as much of their paths as tells them apart.

    >>> shown(["a/images/n.png", "a/masks/n.png", "a/images/m.png"], 2), shown(["a/n.png", "a/m.png"], 2)
    ('a/images/n.png, a/masks/n.png and 1 more', 'n.png, m.png')
    """
    each = list(dict.fromkeys(files))
    names = [Path(file).name for file in each]
    if len(set(names)) < len(names):
        names = ["/".join(Path(file).parts[-3:]) for file in each]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

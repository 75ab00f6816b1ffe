"""A table that pairs images and masks, as spreadsheet programs write one."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unet_paper.data.reader import is_image


class Pair(NamedTuple):
    """A line of the table.

    Attributes:
        image, mask: files.
        folds: in which its pages are held out: a number for each, or one for all; empty where the table has none.
    """

    image: Path
    mask: Path
    folds: tuple[int, ...] = ()


def read_pairs(table: Path, drawn: Sequence[str] = ()) -> list[Pair]:
    """Pairs of files that a table names, as spreadsheet programs write one: with commas, semicolons or tabs.

    Args:
        table: with the columns ``image`` and ``mask``, a line a pair; paths from its folder where not absolute; and
            perhaps ``fold``.
        drawn: extensions of masks that are no images.

    Raises:
        FileNotFoundError: the table or a file of it is missing; names the line.
        ValueError: no such columns, or a line without one of them; a pair that is there twice; a fold that is no
            number, or of some pairs alone.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file")
    lines = text_of(table).splitlines()
    # a line that spreadsheet programs read, and do not show
    hidden = int(bool(lines) and lines[0].startswith("sep="))
    del lines[:hidden]
    header = lines[0] if lines else ""
    rows = list(csv.reader(lines, delimiter=max(",;\t", key=header.count)))
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    if len(rows) < 2 or not {"image", "mask"} <= set(columns):
        raise ValueError(f"{table}: a table with the columns image and mask is needed, and a line for every pair")
    found: list[Pair] = []
    lines_of: dict[tuple[Path, Path], int] = {}
    for number, row in enumerate(rows[1:], start=2 + hidden):
        if not any(field.strip() for field in row):
            continue
        named = dict(zip(columns, (field.strip() for field in row), strict=False))
        if not (named.get("image") and named.get("mask")):
            raise ValueError(f"{table}: line {number} does not name both an image and a mask; complete or remove it")
        image, mask = (_beside(table, named[column]) for column in ("image", "mask"))
        for one, kinds in ((image, ()), (mask, drawn)):
            if not (one.exists() and (is_image(one) or one.suffix.lower() in kinds)):
                what = "not an image" if one.exists() else "no such image"
                raise FileNotFoundError(f"{one}: {what}, named in {table}, line {number}")
        if (first := lines_of.setdefault((image, mask), number)) != number:
            raise ValueError(f"{table}: lines {first} and {number} name the same pair, {image.name}; remove one")
        folds = named.get("fold", "").split()
        if not all(fold.isdecimal() for fold in folds):
            raise ValueError(
                f"{table}: line {number} has the fold {named['fold']!r}: a whole number from 0, one for every page or "
                "one for all, says which images are held out together; name that column otherwise if it means another"
            )
        found.append(Pair(image, mask, tuple(map(int, folds))))
        if bool(folds) != bool(found[0].folds):
            raise ValueError(
                f"{table}: line {number} has {'a' if folds else 'no'} fold, unlike the first one; fill in the column "
                "fold for all, or for none"
            )
    return found


def text_of(table: Path, size: int = -1) -> str:
    """Text of a table, in whichever encoding of spreadsheet programs; of its first ``size`` bytes."""
    with table.open("rb") as file:
        content = file.read(size)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _beside(table: Path, named: str) -> Path:
    """A file that a table names, from the table's folder; where there is none such, with the other slashes, and with
    accents as one letter or as two, as another system writes them.
    """
    turned = named.replace("\\", "/")
    spelt = [named, *(unicodedata.normalize(form, turned) for form in ("NFC", "NFD")), turned]
    return next((table.parent / name for name in spelt if (table.parent / name).exists()), table.parent / turned)

"""Tables in Markdown files, written by the command that measured them into the block of lines that is theirs."""

import os
from collections.abc import Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table.

    >>> print(*markdown_table(["score", "value"], [["SEG", "0.9182"]]), sep="\\n")
    | score | value |
    | --- | --- |
    | SEG | 0.9182 |
    """
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def read_block(file: Path, name: str) -> str:
    """What stands between the lines ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` of a file.

    Raises:
        ValueError: if a marker is missing, or they are in the wrong order.
    """
    return _split(file, name)[1]


def replace_block(file: Path, text: str, name: str) -> None:
    """Replace what :func:`read_block` reads.

    Raises:
        ValueError: if a marker is missing, or they are in the wrong order.
    """
    before, _, after = _split(file, name)
    part = file.with_name(file.name + ".part")
    part.write_text(f"{before}{text}{after}")
    os.replace(part, file)


def _split(file: Path, name: str) -> tuple[str, str, str]:
    """What comes before a block, with its opening line; the block; and what comes after, with its closing line."""
    opening, closing = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = file.read_text().partition(opening)
    block, end, after = rest.partition(closing)
    if not (begin and end):
        raise ValueError(f"{file}: needs the lines {opening} and {closing}, in this order, around the table")
    return f"{before}{begin}\n", block.removeprefix("\n"), end + after

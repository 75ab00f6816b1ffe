"""Channels of an image: what they are called, and which of them are taken, by number or by name."""

import functools
import itertools
import logging
from collections.abc import Sequence

__all__ = ["COLOURS", "Channel", "are_usual", "channel_numbers", "told_names", "usual_names"]

logger = logging.getLogger(__name__)

# of channels whose file names none
COLOURS = ("red", "green", "blue", "alpha")

# number or name of a channel, or several
Channel = int | str | Sequence[int | str]


def channel_numbers(channel: Channel, names: Sequence[str], count: int, source: str) -> list[int]:
    """Numbers of the channels that the setting ``channel`` stands for.

    Args:
        channel: number, name, or a list of such.
        names: of the channels; none where the file has none.
        count: of the channels.
        source: the file, for the error.

    Names by which all channels of an image are asked for are theirs, in this order, where it has none of its own: said
    once.

    A number that is the name of another channel is taken for the name: said once, too.

    Raises:
        ValueError: one that is not there, that is named twice, or whose name several have; names those that are.

    >>> channel_numbers(["GFP", 0], ["DAPI", "GFP", "RFP"], 3, "a.tif")
    [1, 0]
    """
    asked = list(channel) if isinstance(channel, list | tuple) else [channel]
    if len(asked) == count > 1 and are_usual(names) and not are_usual(list(map(str, asked))):
        _say_by_place(tuple(map(str, asked)))
        return list(range(count))
    known = f" ({', '.join(names)})" if names else ""
    numbers = []
    for one in asked:
        wanted = str(one).casefold()
        by_name = [k for k, name in enumerate(names[:count]) if name.casefold() == wanted]
        if len(by_name) > 1:
            raise ValueError(
                f"{source}: {len(by_name)} channels are called {one!r}; choose by number, --channel {by_name[0]}"
            )
        number = by_name[0] if by_name else int(wanted) if wanted.isdecimal() else -1
        if by_name and wanted.isdecimal() and int(wanted) < count and int(wanted) != number:
            _say_by_name(one, number, names[int(wanted)])
        if not 0 <= number < count:
            numbered = (
                ("0" if count == 1 else f"0 to {count - 1}")
                if len(asked) == 1
                else f'"{list(range(min(len(asked), count)))}" by number'
            )
            raise ValueError(f"{source}: no channel {one!r}; it has {count}{known}: --channel {numbered}")
        numbers.append(number)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{source}: channel={channel!r}: each channel once, at least one; it has {count}{known}")
    return numbers


def usual_names(count: int) -> tuple[str, ...]:
    """Names of the samples of a pixel, whose file names none: colours, or numbers where there are more of them.

    >>> usual_names(2), usual_names(3), usual_names(5)
    (('grey', 'alpha'), ('red', 'green', 'blue'), ('0', '1', '2', '3', '4'))
    """
    if count <= 2:
        return ("grey", "alpha")[:count]
    return COLOURS[:count] if count <= len(COLOURS) else tuple(map(str, range(count)))


def told_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Names of ``count`` channels of which a file names some, or more than there are; the others have numbers.

    >>> told_names(["DAPI", ""], 3), told_names(["DAPI", "GFP"], 1)
    (('DAPI', '1', '2'), ('DAPI',))
    """
    told = itertools.zip_longest(range(count), names[:count], fillvalue="")
    return tuple(name or str(number) for number, name in told)


def are_usual(names: Sequence[str]) -> bool:
    """Whether channels have the names of those whose file has none for them: colours, numbers; or none at all."""
    return set(names) <= {*COLOURS, "grey"} or all(name.isdecimal() for name in names)


@functools.cache
def _say_by_place(names: tuple[str, ...]) -> None:
    logger.warning("channels without names are taken for %s, in this order; --channel says otherwise", ", ".join(names))


@functools.cache
def _say_by_name(channel: int | str, number: int, other: str) -> None:
    logger.warning(
        "--channel %s: taken for the name of channel number %d, numbers counting from 0; --channel %s takes the one of "
        "this number, by its name",
        channel,
        number,
        other,
    )

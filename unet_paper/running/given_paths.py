"""Folders and files as they were given on the command line, whatever stands in their names.

On its way to a config, python-fire reads a value as Python: ``out #2`` loses what follows the ``#``, ``7`` becomes a
number and ``1_000`` another one; and MONAI writes ``::`` for every ``#``. Here the settings that are paths get their
own text back.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fire.parser import DefaultParseValue

# what MONAI evaluates, looks up and reads in at the beginning of a text
_MEANING = {"$": "evaluates", "@": "takes for the name of a setting", "%": "takes for a part of another config"}


def is_path(name: str) -> bool:
    """Whether a setting names a folder or a file.

    >>> [name for name in ("dataset_dir", "ckpt_path", "learning_rate") if is_path(name)]
    ['dataset_dir', 'ckpt_path']
    """
    return name.endswith(("_dir", "_path")) or name == "pretrained"


def as_given(settings: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, str]:
    """Paths of a config that are not what was meant, as they are meant.

    Args:
        settings: top-level settings of the config.
        arguments: of the command line.

    Returns:
        The text of every setting that has to be changed.

    Raises:
        ValueError: a path that begins with a character which MONAI gives a meaning, or with ``~``, which only a shell
            reads; a folder without a name. Names it and the remedy.

    >>> as_given({"output_dir": "out"}, ["run", "--output_dir", "out #2"])
    {'output_dir': 'out #2'}
    >>> as_given({"dataset_dir": "a::b", "output_dir": "out"}, [])
    {'dataset_dir': 'a#b'}
    >>> as_given({"dataset_dir": 7}, ["--dataset_dir=7"])
    {'dataset_dir': '7'}
    """
    typed = _typed(arguments)
    restored = {}
    for name, value in settings.items():
        if not is_path(name) or isinstance(value, Mapping):
            continue
        text = _text(value, typed.get(name))
        if text is not None:
            _refuse_misread(name, text)
            refuse_meaning(name, text, typed.get(name))
            if text != value:
                restored[name] = text
    return restored


def _typed(arguments: Sequence[str]) -> dict[str, str]:
    """Settings as typed: ``--NAME VALUE`` and ``--NAME=VALUE``."""
    typed = {}
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            typed[name] = value if equals else "".join(arguments[number + 1 : number + 2])
    return typed


def _text(value: Any, typed: str | None) -> str | None:
    """The path as text; None where the config has an expression for it."""
    if typed is not None:
        parsed = DefaultParseValue(typed)
        if _normal(parsed) == _normal(value):
            # text in quotes is Python's, and whole
            return parsed if isinstance(parsed, str) and ("#" in parsed or "#" not in typed) else typed
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or value.startswith(tuple(_MEANING)):
        return None
    return value if os.path.exists(value) else value.replace("::", "#")


def _normal(value: Any) -> str:
    return str(value).replace("#", "::")


def _refuse_misread(name: str, text: str) -> None:
    """Raise for text that would be taken for the folder in which one stands, or for a folder of the name ``~``."""
    if name.endswith("_dir") and not text.strip():
        raise ValueError(f"--{name} {text!r}: names no folder; write . for the one in which you stand")
    if text.startswith("~") and not os.path.exists(text):
        raise ValueError(f"--{name} {text}: ~ is your home folder to a shell alone, and not after =; write it out")


def refuse_meaning(name: str, text: str, typed: str | None) -> None:
    """Raise if a path that was given begins with a character which MONAI gives a meaning.

    Raises:
        ValueError: names it and the remedy.
    """
    # an expression for the weights may be meant; a folder of that name is not
    meant = name in ("dataset_dir", "output_dir") or os.path.exists(text)
    if typed is not None and text.startswith(tuple(_MEANING)) and meant:
        raise ValueError(
            f"--{name} {text}: begins with {text[0]}, which MONAI {_MEANING[text[0]]}; write --{name} ./{text}"
        )

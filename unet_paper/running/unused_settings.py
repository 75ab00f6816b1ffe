"""What stands in a config, or was given to it, and has no effect: MONAI says nothing of it, and the default is used."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver

# Ids that MONAI looks up itself, besides those of its workflow properties; the second ones are MONAI Label's.
RUN_IDS = ("imports", "initialize", "run", "training", "evaluating", "finalize", "_meta_")
_LABEL_IDS = ("pre_transforms", "post_transforms", "displayable_configs")
_SECTIONS = ("train", "validate")


def refuse_unused(
    config: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    bundles_files: Callable[[], Sequence[Mapping[str, Any]]],
    allowed: set[str],
) -> None:
    """Raise for a setting that has no effect, be it given or written in a file.

    No misspelling is what one of the files uses, since another may well make it useless; nor, where a file has it,
    what any config of the bundle uses: one file of one's own may serve training and prediction.

    Args:
        config: what the files and the settings given came to.
        files: content of the files, by name; none where a workflow was set up by hand.
        bundles_files: gives the content of all configs of the bundle, if it is needed.
        allowed: names that are not to be looked for.

    Raises:
        ValueError: naming the setting, its value, the file where it stands in one, and names that come close.
    """
    unused = {name: value for name, value in unused_settings(config, *files.values()).items() if name not in allowed}
    if not unused:
        return
    bundles = bundles_files()
    for name, value in unused_settings(config, *files.values(), *bundles).items() if files else ():
        holding = [file for file, content in files.items() if name in named(content)]
        if name in unused and holding:
            raise ValueError(f"{holding[-1]}: {name}: {value!r}: {_hint(name, config, unused)}")
    contents = list(files.values()) or bundles
    in_files = {name for content in contents for name in named(content)}
    for name, value in unused.items():
        if name not in in_files:
            raise ValueError(f"--{name}={value!r}: {_hint(name, config, unused)}")


def _hint(name: str, config: Mapping[str, Any], unused: Mapping[str, Any]) -> str:
    known = sorted(set(named(config)) - set(unused))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"settings are {', '.join(known)}"
    return f"no part of this config uses it; {hint}"


def refuse_replaced_sections(files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise where a file puts a section of its own in place of all that an earlier one has in it.

    Args:
        files: content of the files, in their order, by name.

    Raises:
        ValueError: naming the file, the section, what is gone and how to add to it.
    """
    held: dict[str, dict[str, Any]] = {}
    for file, content in files.items():
        for section in _SECTIONS:
            entries = content.get(section)
            lost = sorted(set(held.get(section, {})) - set(entries)) if isinstance(entries, dict) else []
            if isinstance(entries, dict) and lost:
                name = next(iter(entries), lost[0])
                raise ValueError(
                    f"{file}: {section}: takes the place of the whole section, so that {', '.join(lost)} are gone; "
                    f"write '{section}#{name}:' for one entry alone, or '+{section}:' for several"
                )
            held[section] = entries if isinstance(entries, dict) else held.get(section, {})


def unused_settings(config: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a merged config that neither another part of it nor MONAI refers to.

    Args:
        config: merged content of all config files and overrides.
        others: configs to which it may refer besides.

    Returns:
        ``{"section#name": value}`` of every top-level entry, and of every entry of a section (a dictionary without
        ``_target_``), that has no effect.

    >>> unused_settings({"rate": 0.1, "rat": 0.2, "run": "$print(@rate)"})
    {'rat': 0.2}
    """
    properties = TrainProperties if "train" in config else InferProperties
    used = {ReferenceResolver.normalize_id(entry["id"]) for entry in (*properties.values(), *MetaProperties.values())}
    used.update(RUN_IDS + _LABEL_IDS)
    for text in _strings([config, *others]):
        used.update(ReferenceResolver.match_refs_pattern(text))
    used.update({"::".join(name.split("::")[:depth]) for name in used for depth in (1, 2)})
    return {name: value for name, value in named(config).items() if name.replace("#", "::") not in used}


def named(config: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level entries, and those of the ``train`` and ``validate`` sections, by their command-line name."""
    # in a file "+train" is merged with what an earlier one has as "train"
    settings = {name.removeprefix("+").replace("::", "#"): value for name, value in config.items()}
    for section in _SECTIONS:
        if isinstance(settings.get(section), dict):
            settings.update({f"{section}#{name}": value for name, value in settings[section].items()})
    return settings


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _strings(value)

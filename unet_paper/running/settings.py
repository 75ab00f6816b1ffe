"""What a bundle config can ask about itself: where its bundle lies, and whether every setting in it is used.

MONAI accepts any ``--name value`` on its command line and ignores what no part of the config refers to, so that a
misspelt ``--learnig_rate`` trains with the default. ``refuse_unknown_settings`` stops such a run before it starts.
It also wraps every error in several of its own; ``explain_errors`` makes the one that matters the last line printed.

An expression in a config is handed neither the config it stands in nor what was given on the command line: both are
looked for up the interpreter's stack. What does without the stack was tried on MONAI 1.6.1, and does not do:

- A workflow class of our own: ``run`` and ``load`` take ``workflow_name`` as an argument only. Neither it nor
  ``workflow_type`` is read from ``metadata.json``, so the plain command would run without any of these checks.
- ``verify_net_in_out``, ``ckpt_export`` and the other exports make a bare ``ConfigParser`` and no workflow at all.
- A property, in ``add_property`` or ``properties_path``: names an id for MONAI to look up, and runs nothing of ours.
- The macro ``%``, which puts the whole config in place of an item: whatever refers to that copy builds every component
  in it, before the check has run.
- A setting given as None is dropped by ``run`` before a workflow or a parser sees it.
"""

import copy
import difflib
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser
from monai.bundle.workflows import ConfigWorkflow
from monai.utils import ensure_tuple

from unet_paper.running import given_paths
from unet_paper.running.bundle_folder import bundle_folder
from unet_paper.running.config_order import refuse_wrong_order
from unet_paper.running.setting_kinds import refuse_other_kinds
from unet_paper.running.setting_ranges import refuse_impossible_values
from unet_paper.running.unused_settings import RUN_IDS, named, refuse_replaced_sections, refuse_unused

# How the errors begin in which MONAI wraps what really happened.
_WRAPPERS = ("Failed to evaluate", "Failed to instantiate", "applying transform")
# What monai.bundle.load hands on to the workflow from its args_file, though it is meant for the download.
_DOWNLOAD = ("name", "version", "bundle_dir", "source", "repo", "url", "remove_prefix", "progress")
# What YAML knows as truth values and the command line leaves a string, which would be true whatever it says; the short
# words only where a config has a truth value.
_TRUTH = {"true": True, "false": False}
_WORDS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}
# YAML 1.1 takes 1e-4, without a point, for text; a command line .inf, which YAML knows
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+|[+-]?\.inf")
_ALIASES = {
    "train": "training",
    "fit": "training",
    "evaluate": "evaluating",
    "eval": "evaluating",
    "test": "evaluating",
}
# MONAI's functions that run a config, and what settings are called in them: as given, before None is dropped
_RUNNERS = {"run": "override", "run_workflow": "kwargs", "create_workflow": "kwargs"}
_WORKFLOWS = ("training", "evaluating", "run")


def bundle_root() -> str:
    """Folder of the bundle whose config is being run: the parent of its ``configs`` folder."""
    for owner in _callers():
        if isinstance(owner, ConfigWorkflow):
            return str(owner.config_root_path.resolve().parent)
    # a bare ConfigParser (verify_net_in_out, ckpt_export) does not know its file
    return str(bundle_folder())


def refuse_unknown_settings() -> None:
    """Raise if the config being run was given a setting that nothing in it uses; call it from ``initialize``.

    Truth values in any spelling and numbers such as 1e-4, which MONAI's command line and YAML 1.1 leave text, are taken
    for what they are; so are paths, see ``given_paths``.

    Raises:
        ValueError: naming the unused setting, its value and the names that come close to it; a setting given as None,
            which MONAI drops; or one of another kind than it takes, see ``setting_kinds``, or a value that it cannot
            have, see ``setting_ranges``; files in an order in which one takes back what another changes.
        RuntimeError: if called from outside a MONAI config.
    """
    parser = next((owner for owner in _callers() if isinstance(owner, ConfigParser)), None)
    if parser is None:
        raise RuntimeError("refuse_unknown_settings() must be called from within a MONAI config")
    asked = {owner.run_id for owner in _callers() if isinstance(owner, ConfigWorkflow)}
    _refuse_code_for_folders()
    files = _files()
    refuse_wrong_order(files)
    refuse_replaced_sections(files)
    refuse_unused(parser.get(), files, _bundles_files, {*asked, *(_DOWNLOAD if _is_loading() else ())})
    dropped = _dropped()
    for name, value in named(parser.get()).items():
        if value == "null" or (name in dropped and value is not None):
            raise ValueError(
                f"--{name} {value if value == 'null' else None}: MONAI takes no None from the command line; write "
                f"'{name}: null' into a YAML file of your own and add it to --config_file"
            )
    usual = {name: value for content in reversed(files.values()) for name, value in content.items()}  # of the first
    _take_what_is_meant(parser, list(files.values()), usual)
    refuse_other_kinds(parser.get(), usual)
    refuse_impossible_values(parser.get())
    for name, path in given_paths.as_given(parser.get(), sys.argv[1:]).items():
        # anything that MONAI resolves gets "::" for "#" again
        parser.ref_resolver.resolved_content[name] = path


def config_in_use(*resolved: str) -> dict[str, Any]:
    """The config being run, with all that was given; call it from within the config.

    Args:
        resolved: settings to be taken as what they came to, such as those that name where the config lies.

    Raises:
        RuntimeError: if called from outside a MONAI config.
    """
    parser = next((owner for owner in _callers() if isinstance(owner, ConfigParser)), None)
    if parser is None:
        raise RuntimeError("config_in_use() must be called from within a MONAI config")
    return copy.deepcopy(parser.get()) | {name: parser.get_parsed_content(name) for name in resolved}


def part_of_config(config: Mapping[str, Any]) -> Callable[[str], Any]:
    """Gives parts of a config that ``config_in_use`` gave, by their ids, built; also in another process."""
    content: Callable[[str], Any] = ConfigParser(dict(config)).get_parsed_content
    return content


def _take_what_is_meant(parser: ConfigParser, files: Sequence[Mapping[str, Any]], usual: Mapping[str, Any]) -> None:
    """Truth values and numbers that reached the config as text, from a command line or from YAML 1.1.

    Args:
        parser: of the config.
        files: content of the config files.
        usual: what the first of them that has a setting has for it.
    """
    config = parser.get()
    truth = {name for content in files for name, value in content.items() if isinstance(value, bool)}
    meant = {
        name: _whole(_meant(value, _TRUTH | _WORDS if name in truth else _TRUTH), usual.get(name))
        for name, value in config.items()
    }
    changed = {name: value for name, value in meant.items() if _differs(value, config[name])}
    if changed:
        for name, value in changed.items():
            parser[name] = value
        parser.parse(reset=True)


def _meant(value: Any, words: Mapping[str, bool]) -> Any:
    if isinstance(value, Mapping):
        return {name: _meant(item, words) for name, item in value.items()}
    if isinstance(value, list):
        return [_meant(item, words) for item in value]
    if not isinstance(value, str):
        return value
    return float(value.replace(".inf", "inf")) if _NUMBER.fullmatch(value) else words.get(value.lower(), value)


def _whole(value: Any, usual: Any) -> Any:
    """1e3, a float, as the whole number that a setting takes which is one."""
    is_count = isinstance(usual, int) and not isinstance(usual, bool)
    return int(value) if is_count and isinstance(value, float) and value.is_integer() else value


def _differs(value: Any, given: Any) -> bool:
    return bool(value != given) or type(value) is not type(given)


def _files() -> dict[str, dict[str, Any]]:
    """Content of the config files that are run, in their order, by what they were given as."""
    given = next((frame.f_locals["config_file"] for frame in _frames() if frame.f_locals.get("config_file")), ())
    return {str(file): ConfigParser.load_config_file(file) for file in ensure_tuple(given)}


def _bundles_files() -> list[dict[str, Any]]:
    """Content of all configs of the bundle."""
    folder = Path(bundle_root(), "configs")
    files = sorted(path for kind in ("*.yaml", "*.json") for path in folder.glob(kind))
    return [ConfigParser.load_config_file(path) for path in files if path.name != "metadata.json"]


def refuse_idle_runs() -> None:
    """Raise if what MONAI was asked to run is no workflow: it would do nothing, without a word.

    Raises:
        ValueError: naming the ids that run something.
    """
    flow = next((owner for owner in _callers() if isinstance(owner, ConfigWorkflow)), None)
    asked = "run" if flow is None else flow.run_id
    if flow is None or (asked in _WORKFLOWS and asked in flow.parser):
        return
    if asked == "":
        return  # 3D Slicer's, through MONAI Label: MONAI evaluates all of the config, and "run" with it
    content = flow.parser.get().get(asked)
    steps = content if isinstance(content, list) and asked not in RUN_IDS else []
    if any(isinstance(step, str) and step.startswith("$") for step in steps):
        return  # a workflow of one's own
    known = [name for name in _WORKFLOWS if name in flow.parser]
    close = [_ALIASES.get(asked, asked), *difflib.get_close_matches(asked, known, n=1)]
    right = next((name for name in close if name in known), None)
    hint = f"did you mean {right}?" if right else f"these configs can run {' or '.join(known)}"
    if asked in ("evaluating", *[name for name, means in _ALIASES.items() if means == "evaluating"]) and right is None:
        hint += "; evaluating needs the config evaluate"
    raise ValueError(f"run {asked}: would run nothing; {hint}")


def _given() -> Iterator[tuple[str, Any]]:
    """Settings that were given to one of MONAI's functions that run a config, on its command line mostly."""
    frames = (frame for frame in _frames() if frame.f_globals.get("__name__") == "monai.bundle.scripts")
    overrides = (frame.f_locals.get(_RUNNERS.get(frame.f_code.co_name, "")) for frame in frames)
    return ((name, value) for override in overrides for name, value in (override or {}).items())


def _dropped() -> set[str]:
    """Settings that were given as None: MONAI takes them for not given."""
    return {name for name, value in _given() if value is None}


def _refuse_code_for_folders() -> None:
    """Raise if the name of a folder is one that MONAI would evaluate, before it does; Python's callers included."""
    for name, value in _given():
        if name in ("dataset_dir", "output_dir") and isinstance(value, str):
            given_paths.refuse_meaning(name, value, value)


def _is_loading() -> bool:
    return any(frame.f_code is monai.bundle.load.__code__ for frame in _frames())


def explain_errors() -> None:
    """End the report of an uncaught error with the error itself, not with the last of its wrappers."""
    sys.excepthook = _report


def cause(error: BaseException) -> BaseException:
    """The error inside MONAI's wrappers.

    >>> wrapped = RuntimeError("applying transform <LoadImaged>")
    >>> wrapped.__cause__ = FileNotFoundError("a.tif: no such file")
    >>> cause(wrapped)
    FileNotFoundError('a.tif: no such file')
    """
    while isinstance(error, RuntimeError) and str(error).lstrip().startswith(_WRAPPERS):
        if error.__cause__ is None:
            break
        error = error.__cause__
    return error


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and "monai.bundle" in sys.orig_argv:
        # while a run works its end is orderly (interruption.run); before it, there is nothing that could be lost
        print("\nstopped by Ctrl-C before the run had begun", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)
    sys.__excepthook__(kind, error, traceback)
    inner = cause(error)
    print(f"\n{type(inner).__name__}: {inner}", file=sys.stderr)


def _callers() -> Iterator[Any]:
    return (frame.f_locals.get("self") for frame in _frames())


def _frames() -> Iterator[FrameType]:
    # An expression in a config has no name for the config it stands in; the parser that evaluates it is up the stack.
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back

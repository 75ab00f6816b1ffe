"""The command ``unet-paper``: one short command for each thing one does.

Each prints the command of MONAI that it stands for, and runs it. Every setting of the configs can be given, as in
``unet-paper train cells --max_epochs 40``; a misspelt one is refused by the configs themselves.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unet_paper.app import demo, help_text, lean_import, predict, train
from unet_paper.app.bundle_command import BundleCommand, config_path
from unet_paper.app.help_text import Topic
from unet_paper.running.signals import PROCESS, Interrupted

_SPELLED = {"true": "True", "false": "False"}
# one setting for one channel and for several, under whichever name
_NAMED = {"channels": "channel"}


@dataclass(frozen=True)
class Request:
    """What was typed after the name of a command.

    Attributes:
        places: what is no setting: files and folders.
        settings: of the configs, by name, as typed.
        overlays: config files of one's own, from ``--config_file``.
    """

    places: Sequence[Path]
    settings: dict[str, str]
    overlays: Sequence[Path]

    @classmethod
    def parsed(cls, words: Sequence[str]) -> "Request":
        """Places, and ``--name value`` or ``--name=value``; ``--name`` alone is ``True``."""
        places, settings, overlays, rest = [], {}, [], list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("--"):
                places.append(Path(word).expanduser())
                continue
            name, given, value = word[2:].partition("=")
            if not given:
                value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
            if name in ("config_file", "config-file"):
                overlays.append(config_path(Path(value)))
            else:
                name = name.replace("-", "_")
                settings[_NAMED.get(name, name)] = _SPELLED.get(value, value)
        return cls(places, settings, overlays)

    def place(self, what: str) -> Path:
        """The one file or folder that was typed.

        Raises:
            ValueError: none or several.
            FileNotFoundError: no such file or folder.
        """
        if len(self.places) != 1:
            given = " ".join(map(str, self.places)) or "none"
            raise ValueError(f"one {what} is needed, given: {given}")
        (place,) = self.places
        if not place.exists() and "#" not in place.name:
            raise FileNotFoundError(f"{place}: no such file or folder")
        if place.is_dir() and not os.access(place, os.R_OK | os.X_OK):
            raise PermissionError(f"{place}: you may not look into it; give yourself the right to, or copy it")
        return place


def _check(request: Request) -> int:
    _import_monai(request)
    from unet_paper.app import check  # torch and MONAI take seconds to import, and help needs neither

    settings = dict(request.settings)
    minutes, asked = check.minutes_of(settings), check.asked_of(settings)
    unknown = [name for name in settings if name not in check.ASKED] + ["config_file"] * bool(request.overlays)
    if unknown:
        known = ["minutes", *check.ASKED]
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"did you mean --{close[0]}? " if close else ""
        raise ValueError(
            f"--{unknown[0]}: {meant}check takes --{', --'.join(known)}; other settings belong to train, or into its "
            "config.yaml"
        )
    check.say(check.check(request.place("FOLDER"), minutes=minutes, **asked))
    return 0


def _train(request: Request) -> int:
    _import_monai(request)
    from unet_paper.app import check, starting_weights

    check.checked(request.place("FOLDER"), request.settings)
    folder, settings, overlays = request.place("FOLDER"), request.settings, request.overlays
    start, said = starting_weights.choose(folder, settings, overlays)
    training = train.training(folder, settings, overlays, start)
    _run(training)
    if settings.get("fold") == "all":
        return 0  # nothing was held out that could be scored
    from unet_paper.app import training_report

    scored = {name: value for name, value in settings.items() if name != "resume"}
    _run(train.evaluation(folder, scored, overlays))
    run = Path(training.settings["output_dir"].strip('"'))
    print(f"report: {training_report.write(run, training, train.check_folder(folder) / check.PAGE, said)}")
    print(f"predict with it: unet-paper predict IMAGES --weights {run}")
    return 0


def _evaluate(request: Request) -> int:
    evaluation = train.evaluation(request.place("FOLDER"), request.settings, request.overlays)
    _import_monai(request)
    return _run(evaluation)


def _predict(request: Request) -> int:
    images = request.place("IMAGES")
    _import_monai(request)
    return _run(predict.prediction(images, request.settings, request.overlays))


def _demo(request: Request) -> int:
    _import_monai(request)
    folder = demo.phantom_folder()
    settings = demo.training_settings(request.settings)
    _train(Request([folder], dict(settings), request.overlays))
    _predict(Request([folder / "new_images"], demo.prediction_settings(settings), ()))
    print(f"pictures and table: {demo.PREDICTIONS / 'predictions.html'}")
    return 0


COMMANDS: dict[str, Callable[[Request], int]] = {
    "check": _check,
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "demo": _demo,
}
# those that read their own words; each module has main(words) and is loaded when it is called for
MODULES = {"score": "unet_paper.app.score"}


def _import_monai(request: Request) -> None:
    files = (path.read_text(encoding="utf-8") for path in request.overlays)
    lean_import.import_monai([*request.settings, *request.settings.values(), *files])


def _run(*commands: BundleCommand) -> int:
    for command in commands:
        print(command.line(), flush=True)
        command.run()
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Run what was typed.

    Args:
        words: after ``unet-paper``; those of this process where None.

    Returns:
        Exit code: 0, 1 for an error that was said in one line, 2 for words that make no command, 128 + the number of
        the signal that has ended it.
    """
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text.overview())
        return 0 if words else 2
    name, *rest = words
    topic = help_text.TOPICS.get(name)
    if topic is None:
        print(f"unet-paper: no command {name!r}; commands are {', '.join(help_text.TOPICS)}", file=sys.stderr)
        return 2
    try:
        with PROCESS.listening():
            if name in MODULES:
                return int(importlib.import_module(MODULES[name]).main(rest))
            if any(word in ("--help", "-h") for word in rest):
                print(help_text.of_command(name))
                return 0
            return _perform(name, topic, rest)
    except Interrupted as stop:
        if not stop.explained:
            print(f"\nunet-paper {name}: {stop}", file=sys.stderr)
        return 128 + stop.number


def _perform(name: str, topic: Topic, rest: Sequence[str]) -> int:
    try:
        request = Request.parsed(rest)
        if topic.place and not request.places:
            print(
                f"unet-paper {name} {topic.place}: {topic.place} is missing; unet-paper {name} --help", file=sys.stderr
            )
            return 2
        return COMMANDS[name](request)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        inner: BaseException = error
        if "monai" in sys.modules:  # which wraps what went wrong
            from unet_paper.running.settings import cause

            inner = cause(error)
        if not isinstance(inner, ValueError | OSError | RuntimeError | ModuleNotFoundError):
            raise  # a fault of the program: whoever mends it needs to know where
        print(f"unet-paper {name}: {inner}", file=sys.stderr)
        return 1

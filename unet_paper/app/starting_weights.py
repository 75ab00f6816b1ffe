"""Where ``unet-paper train`` starts from: the nearest of our releases, if it is no worse than chance on one's images.

Releases whose network has the width and the channels of the one to be trained are looked at; of one with more levels
the upper ones (``checkpoint.upper_levels``), of one with half its features, or a third, copies of them
(``widening.widened``). The nearest is that with the smallest loss on images held out, before any step. It and chance
are trained for the same steps, a twentieth of the training's each, and the release is kept if its key score on images
held out is no lower (where both are the same, its loss no higher). What came out is an overlay beside the check's, with
a comment that says why, and is kept as the check is. The steps go off the training's, so that it ends in its time.
"""

import copy
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import unet_paper
from unet_paper.app.bundle_command import BundleCommand, path_value
from unet_paper.app.configuration import Choice, Configuration
from unet_paper.app.train import CHOSEN, check_folder, training
from unet_paper.release import terms
from unet_paper.release.terms import Released
from unet_paper.running import checkpoint, widening
from unet_paper.running.placement import placed
from unet_paper.running.signals import PROCESS

SETTING = "start"
CHANCE = "chance"
OVERLAY = "start.yaml"
RECORD = "start.json"
# of a training's steps, for each of the two starts; and below which a trial tells nothing
SHARE, FEWEST_STEPS = 0.05, 50
# at most; a trial need not read all that is there
IMAGES_TRAINED, IMAGES_SCORED = 16, 4
# settings that change nothing in what a trial would find
_OF_A_RUN = ("resume", "output_dir", "max_epochs", "patience", "device", "threads", "logging_file", "num_workers")


@dataclass(frozen=True)
class Score:
    """What a start has come to after the steps of a trial.

    Attributes:
        value: key score on images held out; NaN where it is not defined.
        loss: on the same images; infinite where training has diverged.
    """

    value: float
    loss: float

    def no_worse_than(self, other: "Score") -> bool:
        """Whether the key score is higher, or the same and the loss no higher.

        >>> Score(0.4, 0.9).no_worse_than(Score(0.3, 0.1)), Score(0.0, 0.2).no_worse_than(Score(0.0, 0.1))
        (True, False)
        """
        if math.isnan(self.value):
            return math.isnan(other.value) and self.loss <= other.loss < math.inf
        if self.value == other.value:
            return self.loss <= other.loss
        return math.isnan(other.value) or self.value > other.value


@dataclass(frozen=True)
class Outcome:
    """Of a trial.

    Attributes:
        release: that was tried, by its short name.
        fitting: how many releases fit.
        key: name of the key score.
        steps: of each start.
        images: held out, that were scored.
        from_release: what the release came to.
        from_chance: what chance came to.
    """

    release: str
    fitting: int
    key: str
    steps: int
    images: int
    from_release: Score
    from_chance: Score

    @property
    def kept(self) -> bool:
        """Whether training starts from the release."""
        return self.from_release.no_worse_than(self.from_chance)

    def __str__(self) -> str:
        nearest = f", the nearest of {self.fitting}," if self.fitting > 1 else ""
        starts = {f"release {self.release}{nearest}": self.from_release, CHANCE: self.from_chance}
        scores = "; ".join(f"{name} {self.key} {one.value:.3f}, loss {one.loss:.3f}" for name, one in starts.items())
        chosen = f"the release {self.release}" if self.kept else CHANCE
        images = f"{self.images} image{'s'[: self.images - 1]} held out"
        return f"start from {chosen}: after {self.steps} steps, on {images}: {scores}"


def choose(folder: Path, settings: dict[str, str], overlays: Sequence[Path] = ()) -> tuple[Path | None, str]:
    """Where a training of a folder that has been checked starts, said in one line.

    Args:
        folder: with images and masks.
        settings: as typed. ``start`` is taken out: ``chance``, a release or a file, and nothing is tried.
        overlays: config files of one's own.

    Returns:
        Overlay with the start, or None: no trial was made, and training goes by the settings alone; and the line.

    Raises:
        FileNotFoundError: ``start`` names no weights.
        ValueError: ``start`` and ``pretrained``; a setting that there is not.
    """
    asked = settings.pop(SETTING, None)
    if asked is not None:
        return None, _as_asked(asked, settings, lambda: _network(_plan(training(folder, settings, overlays))))
    place, command = check_folder(folder), training(folder, settings, overlays)
    plan = _plan(command)
    if plan("pretrained") is not None:
        return None, ""
    fitting = _fitting(terms.released(), _network(plan))
    steps = int(SHARE * plan("max_epochs") * plan("steps_per_epoch"))
    subject = _subject(place, settings, overlays, fitting)
    known = _recorded(place)
    if fitting and known.get("subject") == subject:
        print(f"tried before: {known['said']}")
        return place / OVERLAY, str(known["said"])
    if why := _no_trial(fitting, steps, plan("features"), plan("in_channels"), plan("fold"), plan("resume")):
        print(f"start from chance: {why}", flush=True)
        return None, f"start from chance: {why}"
    tried = " or ".join(one.name for one in fitting)
    print(f"trying out two starts, {steps} steps each: {tried}, and {CHANCE}", flush=True)
    outcome = _tried(command, fitting, steps)
    print(f"{outcome}. Other starts: --{SETTING} {CHANCE}, --{SETTING} {outcome.release}", flush=True)
    overlay = _overlay(folder, outcome, fitting, plan("max_epochs"), plan("steps_per_epoch"))
    with placed(place / OVERLAY) as part:
        part.write_text(overlay, encoding="utf-8")
    with placed(place / RECORD) as part:
        record = {"subject": subject, "said": str(outcome), **asdict(outcome)}
        part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return place / OVERLAY, str(outcome)


def _plan(command: BundleCommand) -> Callable[[str], Any]:
    with _quietly():
        found: Callable[[str], Any] = command.workflow().parser.get_parsed_content
        found("pretrained")
    return found


def _network(plan: Callable[[str], Any]) -> dict[str, Any]:
    return {name: plan(name) for name in ("features", "in_channels", "out_channels", "preset")}


def _as_asked(asked: str, settings: dict[str, str], network: Callable[[], Mapping[str, Any]]) -> str:
    if "pretrained" in settings:
        raise ValueError(f"--{SETTING} {asked} --pretrained {settings['pretrained']}: two starts; give one")
    if asked == CHANCE:
        return "start from chance, as asked for"
    releases = {one.name: one for one in terms.released()}
    release = releases.get(asked)
    file = Path(asked).expanduser() if release is None else release.weights
    if release is not None and release.narrow is not None:
        # what does not fit is said when it is loaded
        file = next((one.weights for one in _fitting([release], network())), release.weights)
    file = file / checkpoint.BEST if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"--{SETTING} {asked}: no such file, no run's folder with a {checkpoint.BEST}, and no release; give "
            f"{', '.join([*releases, CHANCE])} or a file"
        )
    settings["pretrained"] = path_value(file)
    return f"start from {asked}, as asked for"


def _fitting(releases: Sequence[Released], network: Mapping[str, Any]) -> list[Released]:
    """Releases that such a network can start from, with the file that fits; one that cannot be read is left out."""
    found = []
    for release in releases:
        try:
            file = next((file for file in release.files if _fits(file, network)), None)
        except (OSError, ValueError) as error:
            print(f"the release {release.name} is left out: {error}")
            continue
        if file is not None:
            found.append(release._replace(weights=file))
    return found


def _fits(weights: Path, network: Mapping[str, Any]) -> bool:
    shape = checkpoint.architecture(checkpoint.read_weights(weights, setting="release"))
    features = list(network["features"])
    upper = shape.pop("features", [])[: len(features)]
    others = {name: value for name, value in network.items() if name != "features"}
    return shape == others and (upper == features or bool(widening.factor(upper, features)))


def _no_trial(
    fitting: Sequence[Released], steps: int, features: Sequence[int], in_channels: int, fold: Any, resume: bool
) -> str:
    """Why nothing is tried; empty if something is."""
    if not fitting:
        widths = ", ".join(map(str, features))
        return f"no release has a network of {widths} features for {in_channels} channel{'s'[: in_channels - 1]}"
    if resume:
        return "a run that goes on has its start already"
    if fold == "all":
        return "no image is held out on which a release could be tried"
    if steps < FEWEST_STEPS:
        return (
            f"a trial of {steps} steps, a twentieth of this training, would tell nothing; more --minutes, or "
            f"--{SETTING} {fitting[0].name} without a trial"
        )
    return ""


def _tried(command: BundleCommand, fitting: Sequence[Released], steps: int) -> Outcome:
    with _quietly():
        trial = Trial(command, steps)
        nearest = trial.nearest(fitting)
        chance, release = trial.score(None), trial.score(nearest.weights)
    return Outcome(nearest.name, len(fitting), trial.key, steps, trial.images, release, chance)


class Trial:
    """Short trainings of one command from several starts; images are read once, and nothing is written.

    Args:
        command: of the training.
        steps: of each start.
    """

    def __init__(self, command: BundleCommand, steps: int) -> None:
        parser = command.workflow(
            secondary=True,  # another process would write the files: there is none
            max_epochs=1,
            steps_per_epoch=steps,
            val_interval=1,
            patience=None,
            **{"validate#evaluator#network": "@network"},  # an average would begin anew with each start
            **{
                f"{part}#dataset#data": {"_target_": f"{__name__}.spread", "cases": f"@{cases}", "most": most}
                for part, cases, most in (
                    ("train", "training_cases", IMAGES_TRAINED),
                    ("validate", "validation_cases", IMAGES_SCORED),
                )
            },
        ).parser
        torch.manual_seed(parser.get_parsed_content("seed"))
        self.network: torch.nn.Module = parser.get_parsed_content("network_def")
        self.trainer: Any = parser.get_parsed_content("train#trainer")
        self.evaluator: Any = parser.get_parsed_content("validate#evaluator")
        self.choice: Any = parser.get_parsed_content("validate#cells_choice")
        self.key: str = self.evaluator.state.key_metric_name
        self.images = len(parser.get_parsed_content("validate#dataset"))
        parts = [self.network, *(parser.get_parsed_content(name) for name in ("optimizer", "lr_scheduler"))]
        self._beginning = [(part, copy.deepcopy(part.state_dict())) for part in parts if part is not None]

    def nearest(self, releases: Sequence[Released]) -> Released:
        """The release with the smallest loss on the images held out."""
        if len(releases) == 1:
            return releases[0]
        losses = []
        for release in releases:
            self._begin(release.weights)
            # better than any: nothing is chosen for such a network
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = math.inf, 0
            self.evaluator.run(1)
            losses.append(self._loss())
        return releases[min(range(len(releases)), key=losses.__getitem__)]

    def score(self, weights: Path | None) -> Score:
        """What a start comes to.

        Args:
            weights: None: chance.
        """
        self._begin(weights)
        self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = -1.0, -1
        self.choice.chosen, self.choice.record = None, {}
        try:
            self.trainer.run()
        except FloatingPointError:  # it has diverged
            return Score(math.nan, math.inf)
        finally:
            PROCESS.deferred = False
        value = self.choice.record.get("value", self.evaluator.state.metrics[self.key])
        return Score(float(value), self._loss())

    def _begin(self, weights: Path | None) -> None:
        for part, state in self._beginning:
            part.load_state_dict(copy.deepcopy(state))
        if weights is not None:
            checkpoint.start_from(self.network, weights)

    def _loss(self) -> float:
        loss = float(self.evaluator.state.metrics.get("val_loss", math.inf))
        return math.inf if math.isnan(loss) else loss


def spread(cases: Sequence[Mapping[str, str]], most: int) -> list[Mapping[str, str]]:
    """At most so many cases, from all over.

    >>> spread([{"image": str(k)} for k in range(7)], 3)
    [{'image': '0'}, {'image': '2'}, {'image': '4'}]
    """
    count = min(most, len(cases))
    return [cases[k * len(cases) // count] for k in range(count)]


def _overlay(folder: Path, outcome: Outcome, fitting: Sequence[Released], epochs: int, steps_per_epoch: int) -> str:
    choices = []
    if outcome.kept:
        release = next(one for one in fitting if one.name == outcome.release)
        said = f"terms of its data go with what is trained from it: {release.terms}"
        file = str(release.weights.resolve())
        choices = [
            Choice("pretrained", file, f"the release {release.name}; {said}"),
            Choice("pretrained_sha256", checkpoint.sha256(release.weights), "that was tried"),
        ]
    taken = math.ceil(2 * outcome.steps / steps_per_epoch)
    choices.append(Choice("max_epochs", max(1, epochs - taken), f"of {epochs}; the trial took the time of {taken}"))
    head = (
        f"Start of the training of {folder}, written by unet-paper train. It lies over {CHOSEN}.\n"
        f"{outcome}.\nOther starts: --{SETTING} {CHANCE}, a release, or a file."
    )
    return Configuration(choices).to_yaml(head)


def _subject(place: Path, settings: Mapping[str, str], overlays: Sequence[Path], fitting: Sequence[Released]) -> str:
    """Checksum of all that the outcome of a trial hangs on."""
    try:
        images = json.loads((place / "check.json").read_text(encoding="utf-8")).get("files")
    except (OSError, ValueError):
        images = None
    files = [path for path in (place / CHOSEN, *overlays) if path.is_file()]
    content = {
        "unet_paper": unet_paper.__version__,
        "images": images,
        "configs": [checkpoint.sha256(path) for path in files],
        "settings": {name: value for name, value in sorted(settings.items()) if name not in _OF_A_RUN},
        "releases": [[str(release.weights.resolve()), checkpoint.sha256(release.weights)] for release in fitting],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _recorded(place: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((place / RECORD).read_text(encoding="utf-8"))) if (place / OVERLAY).is_file() else {}
    except (OSError, ValueError):
        return {}


@contextmanager
def _quietly() -> Iterator[None]:
    """Nothing is said twice: the training afterwards does."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

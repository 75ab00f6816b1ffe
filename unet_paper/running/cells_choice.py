"""Threshold and smallest cell of the post-processing, chosen on the validation images of a run by its own key score.

The paper says nothing of how a map becomes cells. What is chosen here is chosen on held-out images of the training set,
never on test images, and recorded with the weights.
"""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from unet_paper.classes import label_each_class
from unet_paper.data.annotation import OPEN
from unet_paper.instances import Settings, label_instances, splits
from unet_paper.running import engines
from unet_paper.running.doubt import doubt, trust
from unet_paper.running.facts import Facts

logger = logging.getLogger(__name__)

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# at which cells that are joined may part, those of the preset dic_hela_split
SPLITS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# shares of a cell's width: more than the last finds necks in cells whose outline the network is unsure of
NECKS = (0.0, 0.8, 0.9, 0.95)


class CellsChoice:
    """Handler of a validation's evaluator that chooses the post-processing whenever a network is the best so far.

    A score that sweeps thresholds itself, as V_rand of probabilities, is taken at each threshold alone; one of cells,
    as SEG, of the cells at each threshold, with and without splits. Of equal scores those with the given splits come
    first, then the threshold nearest to the given one. At the best threshold, splits at necks of all widths are tried,
    with and without splits at higher thresholds, and taken if they gain. Then the smallest cell becomes half of the
    smallest one annotated, if that loses nothing of the score.

    Args:
        metric: the key metric, an ``IgniteMetricHandler`` around a metric of ``metrics.monai_metrics``, in a mapping of
            one name, as the evaluator has it.
        cells: post-processing to start from.
        thresholds: candidates; splits happen at higher ones only.
        active: False chooses nothing.
    """

    def __init__(
        self,
        metric: dict[str, Any],
        cells: Settings,
        thresholds: Sequence[float] = THRESHOLDS,
        active: bool = True,
    ) -> None:
        ((self.name, handler),) = metric.items()
        self.metric: Any = getattr(handler, "metric_fn", handler)
        self.cells = cast(Settings, {**cells, "split_thresholds": tuple(cells["split_thresholds"])})
        self.candidates = self._candidates(thresholds)
        self.active = active
        self.chosen: Settings | None = None
        self.record: dict[str, Any] = {}
        self._cases: list[tuple[NDArray[np.float16], NDArray[Any]]] = []

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator ``engine``.

        Raises:
            ValueError: if it takes the worse of two scores of the key metric for the better one.
        """
        self._refuse_the_worse(engine)
        if not self.active:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self._choose)

    def applied(self, facts: Facts) -> Facts:
        """Facts with the post-processing that was chosen, and how it was chosen for the record."""
        if self.chosen is None:
            return facts
        return dataclasses.replace(facts, cells=self.chosen, training={**facts.training, "cells_choice": self.record})

    def _refuse_the_worse(self, engine: Any) -> None:
        """An evaluator that keeps the network of the highest error would keep the worst."""
        compare = getattr(engine, "metric_cmp_fn", None)
        lower = getattr(self.metric, "lower_is_better", None)
        if compare is None or lower is None:
            return
        worse, better = (0.7, 0.5) if lower else (0.5, 0.7)
        if compare(better, worse) or not compare(worse, better):
            return
        which, right = ("lower", "operator.lt") if lower else ("higher", "unet_paper.running.validation.is_better")
        raise ValueError(
            f"validate#key_metric: of {self.name} ({type(self.metric).__name__}) {which} is better, and the evaluator "
            "takes the other way; write 'validate#evaluator#metric_cmp_fn: "
            f"{{_target_: {right}, _mode_: callable}}' into a YAML file of your own and add it to --config_file"
        )

    def take_up(self, before: Facts, cells_preset: str) -> None:
        """Go on with what was chosen for the best network so far, as the facts of a resumed run's checkpoint have it.

        Args:
            before: facts of the checkpoint.
            cells_preset: that of the run now; of another one nothing is taken.
        """
        record = before.training.get("cells_choice")
        if self.active and record is not None and before.cells_preset == cells_preset:
            self.chosen, self.record = before.cells, dict(record)

    def _keep(self, engine: Any) -> None:
        for output in engine.state.output:
            probability = output["pred"][1:].detach().cpu().numpy().astype(np.float16)
            self._cases.append((probability, output["instances"][0].cpu().numpy()))

    def _choose(self, engine: Any) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch:
            self.choose()
        self._cases.clear()

    def choose(self) -> None:
        """Choose on the cases of the last validation; all processes must call it."""
        candidates = self.candidates
        scores = self._scores(candidates)
        given = self.cells["threshold"]
        if not np.isfinite(scores).all():
            return
        order = sorted(range(len(scores)), key=lambda i: (-self._gain(scores[i]), *self._distance(candidates[i])))
        best, score = candidates[order[0]], scores[order[0]]
        further = self._other_necks(best)
        for candidate, value in zip(further, self._scores(further), strict=True):
            if self._gain(value) > self._gain(score):
                best, score = candidate, value
        smallest, largest = self._annotated_sizes()
        smallest //= 2
        if smallest > best["min_size"] and not hasattr(self.metric, "thresholds"):
            larger = cast(Settings, {**best, "min_size": smallest})
            (without,) = self._scores([larger])
            best = larger if self._gain(without) >= self._gain(score) else best
        self.chosen = best
        self.record = {
            "score": self.name,
            "images": sum(engines.gather(len(self._cases))),
            "value": score,
            "curve": [
                {"threshold": candidate["threshold"], "split": splits(candidate), "value": value}
                for candidate, value in zip(candidates, scores, strict=True)
            ],
            "value_as_given": scores[candidates.index(self.cells)],
            "largest_cell": largest,
            "doubt": self._trust(best),
        }
        logger.info(
            "post-processing of %d validation images: threshold %g%s, smallest cell %d px, %s %.4f (%.4f at %g)",
            self.record["images"],
            best["threshold"],
            _said(best),
            best["min_size"],
            self.name,
            score,
            self.record["value_as_given"],
            given,
        )

    def _gain(self, score: float) -> float:
        """The score, the higher the better."""
        return 1 - score if getattr(self.metric, "lower_is_better", False) else score

    def _trust(self, settings: Settings) -> dict[str, Any]:
        """How well doubt tells the error of each image, with the post-processing that was chosen."""
        doubts = [doubt(probability.astype(np.float32).sum(axis=0)) for probability, _ in self._cases]
        own = [self._gain(float(self.metric.score(self._row(settings, *case)[None]))) for case in self._cases]
        merged = [pair for process in engines.gather(list(zip(doubts, own, strict=True))) for pair in process]
        return {"score": self.name, **trust([one for one, _ in merged], [score for _, score in merged])}

    def _candidates(self, thresholds: Sequence[float]) -> list[Settings]:
        """What is tried, the given one among it."""
        given = tuple(self.cells["split_thresholds"])
        # a sweep looks at probabilities, in which nothing is split
        ways = [(given, self.cells["neck"])]
        if not hasattr(self.metric, "thresholds"):
            further = ((), 0.0) if self.cells["neck"] else (given or SPLITS, 0.0)
            ways = list(dict.fromkeys([*ways, ((), 0.0), further]))
        tried = []
        for wanted, neck in ways:
            for threshold in sorted({*thresholds, self.cells["threshold"]}):
                above = given if wanted == given else tuple(split for split in wanted if split > threshold)
                if (wanted and not above) or (above and threshold >= min(above)):
                    continue
                chosen = {"threshold": threshold, "split_thresholds": above, "neck": neck}
                tried.append(cast(Settings, {**self.cells, **chosen}))
        if self.cells not in tried:
            tried.append(self.cells)
        return tried

    def _other_necks(self, best: Settings) -> list[Settings]:
        """Splits at necks of all widths, with and without higher thresholds, at the best threshold."""
        if hasattr(self.metric, "thresholds"):
            return []
        ways = dict.fromkeys([(), tuple(split for split in SPLITS if split > best["threshold"])])
        tried = [cast(Settings, {**best, "split_thresholds": above, "neck": neck}) for above in ways for neck in NECKS]
        return [candidate for candidate in tried if candidate not in self.candidates]

    def _distance(self, candidate: Settings) -> tuple[bool, float]:
        """How far a candidate is from what was given."""
        split = splits(candidate) != splits(self.cells)
        return split, abs(candidate["threshold"] - self.cells["threshold"])

    def _scores(self, candidates: Sequence[Settings]) -> list[float]:
        rows = [[self._row(candidate, *case) for case in self._cases] for candidate in candidates]
        merged = engines.gather(rows)
        scores = []
        for number in range(len(candidates)):
            of_all = [row for process in merged for row in process[number]]
            scores.append(float(self.metric.score(np.stack(of_all))) if of_all else float("nan"))
        return scores

    def _row(self, settings: Settings, probability: NDArray[np.float16], reference: NDArray[Any]) -> NDArray[Any]:
        if hasattr(self.metric, "thresholds"):
            alone = copy.copy(self.metric)
            alone.thresholds = (settings["threshold"],)
            of_cells = probability.astype(np.float32)
            return np.asarray(alone.row(np.concatenate([1 - of_cells.sum(axis=0)[None], of_cells]), reference))
        cells = label_each_class(probability.astype(np.float32), partial(label_instances, **settings))
        return np.asarray(self.metric.row(cells[None], reference))

    def _annotated_sizes(self) -> tuple[int, int]:
        """Pixels of the smallest annotated cell, and of the largest that is drawn whole; 0 where there is none."""
        own: tuple[list[int], list[int]] = [], []
        for _, reference in self._cases:
            sizes = np.unique(reference[reference > 0], return_counts=True)[1]
            own[0].extend(int(size) for size in sizes)
            if not (reference == OPEN).any():  # points tell no sizes
                own[1].append(int(sizes.max(initial=0)))
        smallest, largest = ([size for process in engines.gather(sizes) for size in process] for sizes in own)
        return min(smallest, default=0), max(largest, default=0)


def _said(cells: Settings) -> str:
    """How joined cells are split, for a line of the log."""
    above = ", joined cells split above it" if cells["split_thresholds"] else ""
    return above + (f", and at necks below {cells['neck']:g} of their width" if cells["neck"] else "")

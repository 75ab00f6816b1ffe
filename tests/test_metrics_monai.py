"""The MONAI wrappers: what they aggregate, in a config, over batches and over processes."""

import csv
import itertools
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver
from numpy.typing import NDArray
from torch import Tensor

from unet_paper.metrics.ctc import ctc_det, ctc_seg
from unet_paper.metrics.iou import iou
from unet_paper.metrics.monai_metrics import (
    CTCDet,
    CTCSeg,
    ImageRowsMetric,
    IoU,
    PixelError,
    RandError,
    VInfo,
    VRand,
    WarpingError,
)
from unet_paper.metrics.pixel_error import pixel_error
from unet_paper.metrics.rand_error import rand_error
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import warping_error


class Case(NamedTuple):
    """One image of a validation set."""

    pred: Tensor  # probabilities (2, H, W)
    cells: Tensor  # predicted cells (1, H, W)
    instances: Tensor  # reference (1, H, W)


def make_case(seed: int) -> Case:
    """Square cells, a different number in each image, predicted with errors."""
    random = np.random.default_rng(seed)
    instances = np.kron(random.integers(0, 2 + seed, (4, 4)), np.ones((6, 6), dtype=np.int64))
    instances[0] = instances[:, 0] = 0
    cells = np.roll(instances, random.integers(-2, 3, 2), (0, 1))
    probability = np.clip((cells > 0) * 0.6 + random.random(cells.shape) * 0.4, 0, 1)
    pred = np.stack([1 - probability, probability])
    return Case(torch.as_tensor(pred), torch.as_tensor(cells[None]), torch.as_tensor(instances[None]))


CASES = [make_case(seed) for seed in range(5)]
Factory = Callable[[], ImageRowsMetric]
Function = Callable[..., float]
BY_NAME: list[tuple[Factory, Function]] = [
    (CTCSeg, ctc_seg),
    (CTCDet, ctc_det),
    (IoU, iou),
    (PixelError, pixel_error),
    (RandError, rand_error),
    (WarpingError, warping_error),
    (VRand, v_rand),
    (VInfo, v_info),
]
ALL: list[tuple[Factory, Function]] = [
    *BY_NAME,
    (partial(CTCSeg, field_of_interest=5), partial(ctc_seg, field_of_interest=5)),
    (partial(CTCDet, field_of_interest=5), partial(ctc_det, field_of_interest=5)),
    (partial(PixelError, threshold=0.7), partial(pixel_error, threshold=0.7)),
    (partial(RandError, threshold=0.7), partial(rand_error, threshold=0.7)),
    (partial(RandError, foreground_restricted=True), partial(rand_error, foreground_restricted=True)),
    (partial(WarpingError, threshold=0.7), partial(warping_error, threshold=0.7)),
    (partial(VRand, threshold=0.7), partial(v_rand, threshold=0.7)),
    (partial(VInfo, threshold=0.7), partial(v_info, threshold=0.7)),
]
METRICS = [factory for factory, _ in ALL]
ISBI = [pair for pair in BY_NAME if pair[0]().channels == 2]
COUNTED = (PixelError, RandError, WarpingError)


def prediction(metric: ImageRowsMetric, case: Case) -> Tensor:
    return case.cells if metric.channels == 1 else case.pred


def feed(metric: ImageRowsMetric, cases: list[Case], batch_size: int) -> ImageRowsMetric:
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        metric([prediction(metric, case) for case in batch], [case.instances for case in batch])
    return metric


def expected(metric: ImageRowsMetric, function: Function, cases: list[Case]) -> float:
    """The score of the function on all images at once."""
    references = np.stack([case.instances[0].numpy() for case in cases])
    if metric.channels == 1:
        return function(np.stack([case.cells[0].numpy() for case in cases]), references)
    return function(np.stack([case.pred[1].numpy() for case in cases]), references > 0)


@pytest.mark.parametrize(("factory", "function"), ALL)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_aggregate_is_the_score_of_all_images(factory: Factory, function: Function, batch_size: int) -> None:
    metric = feed(factory(), CASES, batch_size)
    score = metric.aggregate()
    assert score.ndim == 0
    assert score.item() == pytest.approx(expected(metric, function, CASES), abs=1e-12)


@pytest.mark.parametrize(("factory", "function"), ALL)
def test_per_image_is_the_score_of_each(factory: Factory, function: Function) -> None:
    metric = feed(factory(), CASES, 2)
    each = [expected(metric, function, [case]) for case in CASES]
    assert metric.per_image().tolist() == pytest.approx(each, abs=1e-12)
    assert metric.get_buffer().tolist() == [[score] for score in metric.per_image().tolist()]


@pytest.mark.parametrize("factory", METRICS)
def test_reset_forgets(factory: Factory) -> None:
    metric = feed(factory(), CASES[:3], 2)
    metric.aggregate()
    metric.reset()
    feed(metric, CASES[3:], 1)
    assert metric.aggregate() == feed(factory(), CASES[3:], 1).aggregate()
    assert len(metric.per_image()) == 2


@pytest.mark.parametrize("factory", METRICS)
def test_a_batch_may_be_a_tensor_or_a_list_of_whatever_holds_an_image(factory: Factory) -> None:
    listed = feed(factory(), CASES, 5)
    stacked, with_meta, arrays = factory(), factory(), factory()
    predictions = [prediction(listed, case) for case in CASES]
    stacked(torch.stack(predictions), torch.stack([case.instances for case in CASES]))
    with_meta([MetaTensor(image) for image in predictions], [MetaTensor(case.instances) for case in CASES])
    arrays([image.numpy() for image in predictions], [case.instances.numpy() for case in CASES])
    assert stacked.aggregate() == with_meta.aggregate() == arrays.aggregate() == listed.aggregate()


def test_images_of_a_list_may_have_different_sizes() -> None:
    metric = CTCSeg()
    references = [torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 2], [3, 0]]])]
    metric([references[0], torch.zeros_like(references[1])], references)
    assert metric.aggregate() == 1 / 4


def test_touching_and_separate_cells_are_the_parts_of_all() -> None:
    reference = torch.tensor([[[[1, 1, 2, 2, 0, 3, 3, 0, 4]]]])
    prediction = torch.tensor([[[[5, 5, 5, 6, 0, 7, 7, 7, 8]]]])
    # 1: 2/3; 2: half covered by 5 and half by 6, no match; 3: 2/3; 4: found
    parts: list[tuple[Any, float]] = [("touching", 1 / 3), ("separate", 5 / 6), (None, 7 / 12)]
    for only, expected in parts:
        metric = CTCSeg(only=only)
        metric(prediction, reference)
        assert metric.aggregate().item() == pytest.approx(expected)
    alone = torch.tensor([[[[1, 1, 0, 0]]]])
    metric = CTCSeg(only="touching")
    metric(alone, alone)
    assert metric.aggregate().isnan()
    lonely: Any = "lonely"
    with pytest.raises(ValueError, match="only='lonely': expected touching, separate"):
        CTCSeg(only=lonely)


@pytest.mark.parametrize("factory", [CTCSeg, CTCDet])
def test_nothing_to_be_scored(factory: Factory) -> None:
    """Images without any object say nothing, and a set of nothing but such images has no score."""
    empty = torch.zeros((1, 1, 4, 4), dtype=torch.int32)
    full = torch.ones_like(empty)
    metric = factory()
    metric(empty, empty)
    assert metric.aggregate().isnan()
    assert metric.per_image().isnan().all()
    metric(full, full)
    assert metric.aggregate() == 1.0
    assert metric.per_image()[1] == 1.0


@pytest.mark.parametrize(("factory", "function"), ISBI)
def test_unknown_pixels_of_a_slice_are_agreed_membrane(factory: Factory, function: Function) -> None:
    case = CASES[3]
    unknown = torch.zeros_like(case.instances, dtype=torch.bool)
    unknown[:, :, 8:13] = True
    metric = factory()
    metric(case.pred[None], torch.where(unknown, -1, case.instances)[None])
    probability = np.where(unknown[0], 0.0, case.pred[1].numpy())
    label = np.where(unknown[0], 0, case.instances[0].numpy() > 0)
    assert metric.aggregate() == function(probability, label)
    # whatever is predicted there
    anything = torch.where(unknown, torch.rand(case.pred.shape, dtype=torch.float64), case.pred)
    again = factory()
    again(anything[None], torch.where(unknown, -1, case.instances)[None])
    assert again.aggregate() == metric.aggregate()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_of_any_precision(dtype: torch.dtype) -> None:
    case = CASES[2]
    rounded = case.pred.to(dtype)
    metric = PixelError()
    metric(rounded[None], case.instances[None])
    assert metric.aggregate() == pixel_error(rounded[1].double().numpy(), case.instances[0].numpy() > 0)


def test_threshold_is_chosen_after_pooling_the_slices() -> None:
    """Each slice alone is perfect at a threshold of its own, and at no threshold are both."""
    label = torch.tensor([[[1, 1, 0, 0]]])
    bright, dark = torch.tensor([[0.9, 0.9, 0.55, 0.55]]), torch.tensor([[0.45, 0.45, 0.0, 0.0]])
    metric = PixelError()
    metric([torch.stack([1 - bright, bright]), torch.stack([1 - dark, dark])], [label, label])
    assert metric.per_image().tolist() == [0.0, 0.0]
    # below 0.45 four true and two false positives, F = 8 / 10; from 0.55 on two true, two missed, F = 4 / 6
    assert metric.aggregate().item() == pytest.approx(1 - 8 / 10, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float32, (4, 6, 6), elements=st.sampled_from([np.float32(p) for p in (0, 0.25, 0.5, 0.625, 1)])),
    arrays(np.int64, (4, 1, 6, 6), elements=st.integers(0, 1)),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_no_score_depends_on_the_batches(
    p: NDArray[np.float32], reference: NDArray[np.int64], sizes: list[int]
) -> None:
    """Exactly so where counts are added up, slices without a cell among them."""
    pred = torch.from_numpy(np.stack([1 - p, p], axis=1))
    for factory, function in ISBI:
        metric = factory()
        ends = [end for end in itertools.accumulate(sizes) if end < 4]
        for begin, end in itertools.pairwise([0, *ends, 4]):
            metric(pred[begin:end], torch.from_numpy(reference[begin:end]))
        whole = function(p, reference[:, 0])
        assert metric.aggregate().item() == pytest.approx(whole, abs=0 if factory in COUNTED else 1e-12)


@pytest.mark.parametrize("factory", METRICS)
def test_no_image_at_all(factory: Factory) -> None:
    metric = factory()
    assert len(metric.per_image()) == 0
    with pytest.raises(ValueError, match=r"was given no image: call it on a batch"):
        metric.aggregate()


@pytest.mark.parametrize("factory", METRICS)
def test_bad_input(factory: Factory) -> None:
    metric, case = factory(), CASES[0]
    good, reference = prediction(metric, case)[None], case.instances[None]
    with pytest.raises(ValueError, match=r"y=None: a score needs the reference"):
        metric(good)
    with pytest.raises(ValueError, match=r"len\(y_pred\)=2, len\(y\)=1"):
        metric([good[0], good[0]], [reference[0]])
    wrong = 3 if metric.channels == 1 else 1
    with pytest.raises(ValueError, match=rf"y_pred.shape=\(1, {wrong}, 24, 24\): \w+ takes \(B, \d, H, W\)"):
        metric(torch.zeros((1, wrong, 24, 24)), reference)
    with pytest.raises(ValueError, match=r"y.shape=\(1, 1, 23, 24\): .* \(1, 1, 24, 24\)"):
        metric(good, reference[:, :, 1:])
    with pytest.raises(ValueError, match=r"(?i)nan"):
        metric(good * torch.nan, reference)
    with pytest.raises(ValueError, match="integers"):
        metric(good, reference / 2)
    with pytest.raises(ValueError, match=r"min\(\)=-2: allowed are -1 for unknown"):
        metric(good, torch.full_like(reference, -2))
    assert len(metric.per_image()) == 0


def pass_on(engine: SupervisedEvaluator, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG001
    """The iteration of an evaluator whose batches hold predictions already."""
    return dict(batch)


@pytest.mark.parametrize(("factory", "function"), BY_NAME)
def test_key_metric_of_a_configured_evaluator(factory: Factory, function: Function, tmp_path: Path) -> None:
    key = "cells" if factory().channels == 1 else "pred"
    config = ConfigParser(
        {
            "key_val_metric": {
                "score": {
                    "_target_": "monai.handlers.IgniteMetricHandler",
                    "metric_fn": {"_target_": f"unet_paper.metrics.monai_metrics.{type(factory()).__name__}"},
                    "output_transform": f"$monai.handlers.from_engine(['{key}', 'instances'])",
                }
            },
            "imports": ["$import monai"],
        }
    )
    batches = [
        {name: torch.stack([getattr(case, name) for case in cases]) for name in Case._fields}
        for cases in (CASES[:2], CASES[2:3], CASES[3:])
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=torch.nn.Identity(),
        iteration_update=pass_on,
        key_val_metric=config.get_parsed_content("key_val_metric"),
        val_handlers=[MetricsSaver(str(tmp_path), metrics="*", metric_details="*")],
    )
    for _ in range(2):  # the handler resets the metric between the epochs
        evaluator.run()
    score = evaluator.state.metrics["score"]
    assert score == pytest.approx(expected(factory(), function, CASES), abs=1e-12)
    assert evaluator.state.best_metric == score
    with (tmp_path / "score_raw.csv").open() as file:
        rows = list(csv.DictReader(file))
    each = [expected(factory(), function, [case]) for case in CASES]
    assert [float(row["mean"]) for row in rows] == pytest.approx(each, abs=1e-4)


SHARES = (([0, 2, 3, 4], [1]), ([0, 1, 2, 3, 4], []))
"""Images of the first and of the second process: more here than there, and all here and none there."""


def process(rank: int, folder: str) -> None:
    """What each of two processes does: score its share of the images, then save what it aggregates."""
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    results = []
    for shares in SHARES:
        metrics = [feed(factory(), [CASES[index] for index in shares[rank]], 3) for factory in METRICS]
        results.append([(metric.aggregate(), metric.per_image()) for metric in metrics])
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    # a server that has imported everything once saves each process from doing so
    # what is found without this folder on the path; a server that another test needs later has it too
    multiprocessing.set_forkserver_preload(["monai.bundle", "unet_paper.metrics.monai_metrics"])
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="forkserver")
    single = [feed(factory(), CASES, 3) for factory in METRICS]
    for rank in range(2):
        for shares, results in zip(SHARES, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            for metric, (score, per_image) in zip(single, results, strict=True):
                assert score.item() == pytest.approx(metric.aggregate().item(), abs=1e-12)
                assert torch.equal(per_image, metric.per_image()[shares[0] + shares[1]])

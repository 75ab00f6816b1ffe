"""The training step: nothing waits for the device, and compiling it changes neither result nor checkpoint."""

import platform
import re
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY
from monai.inferers import SimpleInferer
from monai.transforms import Compose, NormalizeIntensityd
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unet_paper.elastic_deformation import RandElasticDeformationd
from unet_paper.grey_values import RandGreyValuesd
from unet_paper.loss import PixelWeightedCrossEntropy
from unet_paper.network import UNet
from unet_paper.running import engines
from unet_paper.running.settings import cause


class WaitingCopies(TorchDispatchMode):
    """Notes copies from the host for which the host waits until the device has done all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        devices = [leaf.device.type for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
        if "copy" in str(func) and {"cpu", "meta"} <= set(devices) and not kwargs.get("non_blocking"):
            self.found.append(f"{func} {devices}")
        return result


def test_a_waiting_copy_is_noticed() -> None:
    with WaitingCopies() as copies:
        torch.zeros(3).to("meta", non_blocking=True)
        assert copies.found == []
        torch.zeros(3).to("meta")
    assert len(copies.found) == 1


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without data, from which any value read back raises; they stand for those on a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    device = torch.device("meta")
    image = torch.empty(1, 128, 128, device=device)
    cached = {"image": image, "label": torch.empty_like(image, dtype=torch.uint8), "weight": image}
    augmentation = Compose(
        [
            RandElasticDeformationd(input_size=92, output_size=52),
            RandGreyValuesd(noise_std=0.1),
            NormalizeIntensityd("image", subtrahend=0.5, divisor=0.1),
        ]
    )
    network = UNet(features=(4, 8, 16)).to(device)
    engine: Any = SimpleNamespace(
        state=SimpleNamespace(device=device, output=None),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.99),
        inferer=SimpleInferer(),
        loss_function=PixelWeightedCrossEntropy(),
        fire_event=lambda _event: None,
    )
    watch = engines.LossWatch(interval=10)
    augmentation(cached)  # fills the cache of the basis
    with pytest.raises(RuntimeError, match="meta"):
        float(image.sum())
    with WaitingCopies() as copies:
        for _ in range(2):
            item = augmentation(cached)
            engine.state.output = engines.TrainingStep()(engine, {key: value[None] for key, value in item.items()})
            watch._add(engine)
    assert copies.found == []
    assert engine.state.output[0]["pred"].shape == (1, 2, 52, 52)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def test_compiled_and_resumed_equals_uninterrupted(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_network = torch.compile
    compiled: list[nn.Module] = []

    def traced(network: nn.Module, *, mode: str) -> Any:
        assert mode == "default"
        compiled.append(network)
        return compile_network(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    small = {**TINY, "features": [4, 8], "tile_size": 44, "steps_per_epoch": 2, "val_interval": 3}
    settings = {**small, "dataset_dir": cells_folder, "lr_scheduler#total_iters": 4, "compile": True}
    run_bundle("training", "train", **settings, output_dir=str(tmp_path / "whole"))
    run_bundle("training", "train", **{**settings, "max_epochs": 1}, output_dir=str(tmp_path / "parts"))
    run_bundle("training", "train", **settings, resume=True, output_dir=str(tmp_path / "parts"))
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert len(compiled) == 3
    assert whole["network"].keys() == UNet(features=(4, 8)).state_dict().keys()
    for name, value in whole["network"].items():
        assert torch.equal(value, parts["network"][name]), name
    assert whole["iteration"] == parts["iteration"] == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"train#trainer#amp": True},
            "trainer#amp=True: has no effect here; leave it out, and say --precision bfloat16",
        ),
        ({"validate#evaluator#amp": True}, "evaluator#amp=True: has no effect here"),
        ({"train#trainer#accumulation_steps": 4}, "trainer#accumulation_steps=4: has no effect here; .* --batch_size"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_what_monais_own_step_does_and_ours_does_not_is_refused(
    given: dict[str, Any], said: str, run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    settings = {**TINY, "max_epochs": 1, "steps_per_epoch": 1, "dataset_dir": cells_folder}
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", **settings, **given, output_dir=str(tmp_path / "run"))
    assert re.search(said, str(cause(info.value)))


def test_channels_last_learns_the_same(run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path) -> None:
    # SGD: what rounding leaves of a gradient of 0 is a full step to Adam
    settings = {**TINY, "max_epochs": 1, "val_interval": 2, "optimizer#_target_": "torch.optim.SGD"}
    settings["dataset_dir"] = cells_folder
    for name, layout in (("rows", torch.contiguous_format), ("last", torch.channels_last)):
        run_bundle("training", "train", **settings, memory_format=layout, output_dir=str(tmp_path / name))
    first, second = (state(tmp_path / name)["network"] for name in ("rows", "last"))
    assert second["expanding.0.0.weight"].is_contiguous(memory_format=torch.channels_last)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_freed_memory_is_used_again() -> None:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(10_000_000) for _ in range(4)]  # glibc by itself never keeps one of more than 32 MiB
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    asked = 4 * 10_000_000 * 4 / resource.getpagesize()
    assert engines.keep_freed_memory()
    assert min(page_faults() for _ in range(4)) < 0.05 * asked

"""Weights on disk: atomic, complete or refused."""

from pathlib import Path

import pytest
import torch

from unet_paper.network import UNet
from unet_paper.running import checkpoint


def network(features: tuple[int, ...] = (2, 4)) -> UNet:
    return UNet(features=features)


def test_saved_weights_come_back(tmp_path: Path) -> None:
    source, target = network(), network()
    checkpoint.save(source.state_dict(), tmp_path / "model.pt")
    checkpoint.load_weights(target, tmp_path / "model.pt", checkpoint.sha256(tmp_path / "model.pt"))
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_failing_save_leaves_the_old_file(tmp_path: Path) -> None:
    checkpoint.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    before = checkpoint.sha256(tmp_path / "model.pt")
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"a": lambda: None}, tmp_path / "model.pt")
    assert checkpoint.sha256(tmp_path / "model.pt") == before


def test_a_checkpoint_is_not_exported_over_itself(tmp_path: Path) -> None:
    checkpoint.save({"network": network().state_dict(), "epoch": 3}, tmp_path / "last.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "last.pt")
    for target in ("last.pt", "link.pt"):
        with pytest.raises(FileExistsError, match=f"{target}: is the checkpoint itself"):
            checkpoint.export_weights(tmp_path / "last.pt", tmp_path / target)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 3


def test_released_weights_are_half_precision_and_load_as_float(tmp_path: Path) -> None:
    source = network()
    checkpoint.save({"network": source.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    digest = checkpoint.export_weights(tmp_path / "last.pt", tmp_path / "release" / "model.pt")
    stored = torch.load(tmp_path / "release" / "model.pt", weights_only=True)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    target = network()
    checkpoint.load_weights(target, tmp_path / "release" / "model.pt", digest)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value.half().float(), rtol=0, atol=0)


def test_released_weights_may_be_the_mean_of_a_line_of_trainings(tmp_path: Path) -> None:
    states = [{name: value + k for name, value in network().state_dict().items()} for k in (0.0, 1.0, 5.0)]
    files = [tmp_path / f"{k}.pt" for k in range(3)]
    for state, file in zip(states, files, strict=True):
        checkpoint.save(state, file)
    checkpoint.export_weights(files[0], tmp_path / "mean.pt", average_with=files[1:])
    found = checkpoint.read_weights(tmp_path / "mean.pt")
    for name, value in states[0].items():
        expected = (value + states[1][name] + states[2][name]) / 3
        torch.testing.assert_close(found[name], expected.half().float(), rtol=0, atol=1e-3)
    checkpoint.save(network((2, 8)).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"average_with=.*wide.pt: belongs to another architecture than .*0.pt; give"):
        checkpoint.export_weights(files[0], tmp_path / "none.pt", average_with=[tmp_path / "wide.pt"])
    assert not (tmp_path / "none.pt").exists()


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    checkpoint.save(network((2, 8)).state_dict(), tmp_path / "wide.pt")
    checkpoint.save({"epoch": 3}, tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"wide.pt.*another architecture.*\[2, 8\]"):
        checkpoint.load_weights(target, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"none.pt.*no state dict"):
        checkpoint.load_weights(target, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"text.pt.*not a checkpoint"):
        checkpoint.load_weights(target, tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError, match=r"gone.pt.*--ckpt_path"):
        checkpoint.load_weights(target, tmp_path / "gone.pt")
    with pytest.raises(ValueError, match="sha256"):
        checkpoint.load_weights(target, tmp_path / "wide.pt", "0" * 64)
    for name, value in before.items():
        assert torch.equal(value, target.state_dict()[name])


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.read_weights(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_file_with_nothing_but_a_wrapper_s_own_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"n_averaged": torch.tensor(3)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt"):
        checkpoint.load_weights(UNet(features=[2, 4]), tmp_path / "a.pt")

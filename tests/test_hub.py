"""Releases on the Hugging Face hub, which is simulated behind its own client: published, loaded, refused."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import monai.bundle
import pytest
import torch
import yaml
from conftest import ROOT
from simulated_hub import Hub, simulated

import unet_paper
from unet_paper.network import UNet
from unet_paper.release import archive, hub, registry
from unet_paper.running import checkpoint

NAME, REPO = "unet_em_segmentation", "lab/unet_em"
BUNDLE = ROOT / "bundle"
FEATURES = [2, 2, 2, 2, 2]
VERSION = unet_paper.__version__


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a small release."""
    folder = tmp_path_factory.mktemp("dist")
    torch.manual_seed(0)
    checkpoint.save(UNet(features=FEATURES).state_dict(), folder / "tiny.pt")
    release = archive.releases(BUNDLE)[NAME]
    archive.build(BUNDLE, release, folder, weights=folder / "tiny.pt", settings={"features": FEATURES})
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, where the token of ``lab`` is known; none of this machine's is looked for."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.utils.disable_progress_bars()
    with simulated(Hub({"of-lab": "lab", "of-others": "others"})) as found:
        yield found


def _card(online: Hub, revision: str = "main") -> dict[str, Any]:
    repository = online.repositories[REPO]
    page = repository.commits[repository.resolve(revision) or ""]["README.md"].decode()
    assert page.count("\n---\n") >= 1
    return dict(yaml.safe_load(page.split("---\n")[1]))


def test_a_release_is_published_and_loaded_without_a_version(source: Path, online: Hub, tmp_path: Path) -> None:
    hub.publish(NAME, source, REPO, token="of-lab", private=False)
    files = online.repositories[REPO].commits[online.repositories[REPO].head]
    assert {"configs/inference.json", "models/model.pt", "docs/data_license.txt", "unet_paper/network.py"} <= set(files)
    assert set(online.repositories[REPO].tags) == {VERSION, "latest_version"}
    for version in (None, VERSION):
        found = monai.bundle.load(
            NAME,
            version=version,
            source="huggingface_hub",
            repo=REPO,
            bundle_dir=str(tmp_path / str(version)),
            workflow_type="inference",
            device="cpu",
        )
        assert list(found.features) == FEATURES
        expected = torch.load(tmp_path / str(version) / NAME / "models" / "model.pt", weights_only=True)
        for name, value in found.state_dict().items():
            torch.testing.assert_close(value, expected[name].float(), rtol=0, atol=0)


def test_the_card_names_the_terms_of_the_weights_in_every_tag(source: Path, online: Hub) -> None:
    hub.publish(NAME, source, REPO, token="of-lab")
    for revision in ("main", VERSION, "latest_version"):
        card = _card(online, revision)
        assert card["license"] == "other"
        assert card["license_link"] == "docs/data_license.txt"
        assert "monai" in card["tags"]
        assert card["library_name"] == "monai"
    assert online.repositories[REPO].private


def test_monai_alone_says_the_codes_licence_and_keeps_the_first_release_as_the_latest(
    source: Path, online: Hub, tmp_path: Path
) -> None:
    """Why there is a command of ours: this is what it mends."""
    registry.install(NAME, source, tmp_path)
    for _ in range(2):
        monai.bundle.push_to_hf_hub(
            repo=REPO, name=NAME, bundle_dir=str(tmp_path), token="of-lab", tag_as_latest_version=True
        )
        (tmp_path / NAME / "models" / "model.pt").write_bytes(b"of the next release")
    repository = online.repositories[REPO]
    assert _card(online)["license"] == "apache-2.0"
    assert repository.commits[repository.head]["models/model.pt"] == b"of the next release"
    assert repository.commits[repository.tags["latest_version"]]["models/model.pt"] != b"of the next release"


def test_the_latest_version_moves_with_a_release(source: Path, online: Hub, tmp_path: Path) -> None:
    hub.publish(NAME, source, REPO, token="of-lab")
    bundle = registry.install(NAME, source, tmp_path)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["version"] = "99.0.0"
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "install", lambda name, _source, folder, _version: bundle.rename(Path(folder) / name))
        hub.publish(NAME, source, REPO, token="of-lab")
    tags = online.repositories[REPO].tags
    assert tags["latest_version"] == tags["99.0.0"] != tags[VERSION]


def test_a_version_that_is_there_stays_what_it_is(source: Path, online: Hub) -> None:
    hub.publish(NAME, source, REPO, token="of-lab")
    before = dict(online.repositories[REPO].tags), online.repositories[REPO].head
    with pytest.raises(FileExistsError, match=f"{REPO}: has version {re.escape(VERSION)}"):
        hub.publish(NAME, source, REPO, token="of-lab")
    assert (dict(online.repositories[REPO].tags), online.repositories[REPO].head) == before


@pytest.mark.parametrize(
    "repo", ["unet_em", "lab/unet/em", "lab/unet em", "/unet", "lab/-unet", "lab/unet--em", "https://a/b"]
)
def test_what_is_no_repository_is_refused_before_anything_is_fetched(repo: str, online: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unet|https"):
        hub.publish(NAME, tmp_path / "nothing", repo, token="of-lab")
    assert online.repositories == {}


def test_no_token_is_refused_with_the_ways_to_give_one(source: Path, online: Hub) -> None:
    with pytest.raises(ValueError, match="hf auth login, or HF_TOKEN"):
        hub.publish(NAME, source, REPO)
    assert online.repositories == {}


@pytest.mark.parametrize("token", ["of-others", "unknown"])
def test_a_token_that_may_not_write_there_publishes_nothing(token: str, source: Path, online: Hub) -> None:
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match=r"403|401"):
        hub.publish(NAME, source, REPO, token=token)
    assert online.repositories == {}


@pytest.mark.usefixtures("online")
def test_a_private_release_is_not_there_for_others(source: Path, tmp_path: Path) -> None:
    hub.publish(NAME, source, REPO, token="of-lab")
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        monai.bundle.download(NAME, version=VERSION, source="huggingface_hub", repo=REPO, bundle_dir=str(tmp_path))


def test_the_command_publishes_and_says_what_is_wrong(
    source: Path, online: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hub", NAME, "--source", str(source), "--repo", REPO, "--public"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="1"):
        hub.main()
    assert "ValueError: token=None" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "of-lab")
    hub.main()
    assert REPO in capsys.readouterr().out
    assert not online.repositories[REPO].private

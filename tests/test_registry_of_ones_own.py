"""MONAI's own commands with a repository of one's own: what they list, choose and download, the addresses simulated."""

import io
import json
import urllib.error
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import monai.bundle
import monai.bundle.scripts as scripts
import pytest
import requests

from unet_paper.release import registry

NAME, REPOSITORY = "unet_em_segmentation", "LAB/unet"


class GitHub:
    """What GitHub serves of a repository: files at a tag, and the files of a tag's release; else 404."""

    def __init__(self) -> None:
        self.served: dict[str, bytes] = {}

    def publish(self, version: str, folder: Path) -> None:
        """What CONTRIBUTING says: registry committed, tag set, archives attached to its release."""
        file = folder / "models" / registry.INFO
        archives = [self._archive(folder, name, version) for name in (NAME, "unet_hela_segmentation")]
        registry.write_for_monai(archives, file)
        self.served[f"https://raw.githubusercontent.com/{REPOSITORY}/v{version}/models/model_info.json"] = (
            file.read_bytes()
        )
        for archive in archives:
            self.served[f"https://github.com/{REPOSITORY}/releases/download/v{version}/{archive.name}"] = (
                archive.read_bytes()
            )

    def _archive(self, folder: Path, name: str, version: str) -> Path:
        path = folder / f"{name}_v{version}.zip"
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{name}/configs/metadata.json", json.dumps({"version": version, "monai_version": "1.6.1"}))
        registry.enter(path, registry.github_release(REPOSITORY, version))
        return path

    def get(self, url: str, **_: Any) -> requests.Response:
        """As requests.get."""
        response = requests.Response()
        response.url, response.status_code = url, 200 if url in self.served else 404
        response.raw = io.BytesIO(self.served.get(url, b"404: Not Found"))
        return response

    def download(self, url: str, filepath: Path, **_: Any) -> None:
        """As MONAI's download_url."""
        if url not in self.served:
            raise urllib.error.HTTPError(url, 404, "Not Found", Message(), None)
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        Path(filepath).write_bytes(self.served[url])


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    """The repository with two releases, of which text would take the older for the newer."""
    simulated = GitHub()
    for version in ("0.9.0", "0.10.0"):
        simulated.publish(version, tmp_path / version)
    monkeypatch.setattr(scripts.requests, "get", simulated.get)
    monkeypatch.setattr(scripts, "download_url", simulated.download)
    return simulated


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0"])
@pytest.mark.usefixtures("github")
def test_a_tag_lists_its_own_version(version: str) -> None:
    listed = monai.bundle.get_all_bundles_list(repo=REPOSITORY, tag=f"v{version}")
    assert sorted(listed) == [(NAME, version), ("unet_hela_segmentation", version)]
    found = monai.bundle.get_bundle_info(NAME, repo=REPOSITORY, tag=f"v{version}")
    assert (
        found["browser_download_url"]
        == f"https://github.com/{REPOSITORY}/releases/download/v{version}/{NAME}_v{version}.zip"
    )


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0"])
@pytest.mark.usefixtures("github")
def test_a_download_without_a_version_takes_that_of_the_tag(version: str, tmp_path: Path) -> None:
    monai.bundle.download(
        name=NAME,
        source="github",
        repo=f"{REPOSITORY}/v{version}",
        bundle_dir=str(tmp_path / "bundles"),
        progress=False,
    )
    found = json.loads((tmp_path / "bundles" / NAME / "configs" / "metadata.json").read_text())
    assert found["version"] == version


@pytest.mark.usefixtures("github")
def test_another_tag_has_nothing(tmp_path: Path) -> None:
    with pytest.raises(requests.HTTPError):
        monai.bundle.get_all_bundles_list(repo=REPOSITORY, tag="v0.11.0")
    with pytest.raises(requests.HTTPError):
        monai.bundle.download(name=NAME, source="github", repo=f"{REPOSITORY}/v0.11.0", bundle_dir=str(tmp_path))


def test_a_registry_for_monai_needs_addresses_and_one_version_of_each(tmp_path: Path) -> None:
    archives = []
    for version in ("0.9.0", "0.10.0"):
        path = tmp_path / f"{NAME}_v{version}.zip"
        path.write_bytes(b"archive")
        archives.append(path)
        registry.enter(path, registry.github_release(REPOSITORY, version))
    with pytest.raises(ValueError, match=f"{NAME}: several versions"):
        registry.write_for_monai(archives, tmp_path / "models" / registry.INFO)
    registry.enter(archives[0])
    with pytest.raises(ValueError, match="entered without base_url"):
        registry.write_for_monai(archives[:1], tmp_path / "models" / registry.INFO)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("repository", ["unet", "LAB/unet/v1", "https://github.com/LAB/unet", "LAB/", "../unet"])
def test_what_is_no_repository_is_refused(repository: str) -> None:
    with pytest.raises(ValueError, match="OWNER/REPOSITORY"):
        registry.github_release(repository, "0.2.0")

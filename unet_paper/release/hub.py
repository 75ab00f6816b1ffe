"""A release on the Hugging Face hub: MONAI's upload, and what it leaves wrong or undone put right.

``monai.bundle.push_to_hf_hub`` makes the repository, its card and the upload. It takes the weights' licence from the
code's file ``LICENSE``; and a tag that is there already, ``latest_version`` above all, it leaves where it is without a
word, so that whoever loads without a version would get the first release for ever.

    python -m unet_paper.release.hub NAME --source dist --repo OWNER/NAME --public
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import monai.bundle

from unet_paper.release import export, registry

# what a load without a version takes
LATEST = "latest_version"
# under the terms of their data, which no licence of the hub's list says
_CARD = {
    "license": "other",
    "license_name": "terms-of-the-training-data",
    "license_link": "docs/data_license.txt",
    "pipeline_tag": "image-segmentation",
}
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def publish(
    name: str,
    source: str | Path,
    repo: str,
    *,
    version: str | None = None,
    token: str | None = None,
    private: bool = True,
) -> str:
    """Put a release into a repository of the hub, with its version and ``latest_version`` as tags.

    Args:
        name: of the bundle.
        source: folder or URL of the registry that has it; its archive is checked first.
        repo: ``OWNER/NAME`` of the repository, made if it is missing.
        version: to publish; None: the highest.
        token: of an account that may write there; None: that of ``hf auth login`` or ``HF_TOKEN``.
        private: of a repository that is made.

    Returns:
        URL of the upload.

    Raises:
        ValueError: no name of a repository, no token, or as ``registry.install``.
        FileExistsError: the repository has this version.
        ImportError: without huggingface_hub.
    """
    hub = export.required("huggingface_hub", "unet_paper[hub]")
    if not _REPO.fullmatch(repo):
        raise ValueError(f"repo={repo!r}: must be OWNER/NAME: letters, digits and _ . -")
    hub.utils.validate_repo_id(repo)
    if not (token or hub.get_token()):
        raise ValueError("token=None: the hub takes uploads with a token only; hf auth login, or HF_TOKEN")
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        bundle = registry.install(name, source, folder, version)
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
        tags = _tags(hub, api, repo)
        if metadata["version"] in tags:
            raise FileExistsError(
                f"{repo}: has version {metadata['version']}, which stays what it is; publish another version"
            )
        url = monai.bundle.push_to_hf_hub(repo=repo, name=name, bundle_dir=folder, token=token, private=private)
    hub.metadata_update(repo, _CARD, overwrite=True, token=token)
    api.create_tag(repo, tag=metadata["version"])
    if LATEST in tags:
        api.delete_tag(repo, tag=LATEST)
    api.create_tag(repo, tag=LATEST)
    return str(url)


def _tags(hub: Any, api: Any, repo: str) -> set[str]:
    try:
        return {tag.name for tag in api.list_repo_refs(repo).tags}
    except hub.errors.RepositoryNotFoundError:
        return set()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the bundle")
    parser.add_argument("--source", required=True, help="folder or URL that holds model_info.json")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository of the hub")
    parser.add_argument("--version", help="X.Y.Z; the highest by default")
    parser.add_argument("--public", action="store_true", help="make a repository that everyone sees")
    arguments = parser.parse_args()
    try:
        print(
            publish(
                arguments.name,
                arguments.source,
                arguments.repo,
                version=arguments.version,
                token=os.environ.get("HF_TOKEN"),
                private=not arguments.public,
            )
        )
    except (OSError, LookupError, ValueError, ImportError) as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()

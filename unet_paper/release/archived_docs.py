"""Pages of an archive, made from those of the checkout: they speak of what the archive holds, and of nothing else.

A page of ``bundle/docs`` says with marks that a reader does not see what belongs to the checkout alone, and what stands
in its place in an archive::

    <!-- checkout:begin -->
    ...
    <!-- checkout:end -->
    <!-- archive:
    ...
    -->

Lists of configs in commands become the one config, or the config and overlays, that the archive has of them; extras of
the package become the packages. What then still names something that is not in the archive is refused.
"""

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from unet_paper.release import archived_configs

# Pages of bundle/docs that go into an archive; its README.md is written by model_card.
PAGES = ("images.md", "export.md", "large_images.md", "metrics.md", "bioimage_io.md", "tracking.md", "transfer.md")
_CHECKOUT = re.compile(r"<!-- checkout:begin -->.*?<!-- checkout:end -->\n?", re.DOTALL)
_ARCHIVE = re.compile(r"<!-- archive:\s*(.*?)\s*-->", re.DOTALL)
_CONFIG_FILE = re.compile(r'--config_file (?:"(\[[^"\n]*\])"|((?:[\w.]+/)*\w+\.yaml))')
_CONFIG = re.compile(r"\b(?:bundle/)?(?:configs/)?(\w+)\.yaml\b")
_EXTRA = re.compile(r"([\"']?)(?:unet_paper|\.)\[(\w+)\]\1")
# what a config of the checkout is called in prose where the archive's has another name
_RENAMED = {"data_folder": "train_folder", "data_large": "train_large"}
_NAMED = (
    re.compile(r"\b((?:configs|models|scripts|tests|docs|figures|unet_paper|bundle)/[\w/.-]*\w\.\w+)"),
    re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)"),
    re.compile(r"\b([\w/]+\.(?:md|ya?ml|json|conf|py|txt))\b"),
)
_MAKE = re.compile(r"`make [\w-]+|^make [\w-]+", re.MULTILINE)
_WRITTEN = re.compile(r"--(?:filepath|export_path) ([\w/.]+)")
# of a run, of the user or of another package, not of the archive
_ELSEWHERE = re.compile(
    r"(runs|[A-Z_]+)/.*|(.*/)?(model\.pt|last\.pt|(cases|pairs|metrics|summary)\.\w+|predictions\.json|schema\.json|my_\w+\.yaml|a\.json|"
    r"unet_paper\.json|rdf\.yaml|postprocessing\.json|config_DATE\.json|NAME\w*\.\w+|annotations\.json|report\.html)"
)


def archived(page: str, sources: Mapping[str, Sequence[str]], extras: Mapping[str, Mapping[str, str]]) -> str:
    """Text of a page as an archive has it.

    Args:
        page: text of the checkout's page.
        sources: complete configs of the archive, and what they are made of, see ``archived_configs.sources``.
        extras: packages of each extra, and their versions.

    Raises:
        ValueError: a command combines configs of which the archive has no equal.
    """
    text = _ARCHIVE.sub(lambda match: match[1], _CHECKOUT.sub("", page))
    text = _CONFIG_FILE.sub(lambda match: f"--config_file {config_files(_listed(match), sources)}", text)
    text = _CONFIG.sub(
        lambda match: f"{_RENAMED.get(match[1], match[1])}.json" if _known(match[1], sources) else match[0], text
    )
    text = text.replace("bundle/configs/", "configs/").replace("bundle/docs/", "docs/")
    return _EXTRA.sub(lambda match: _packages(match[2], extras), text)


def pinned(versions: Mapping[str, str]) -> str:
    """Packages as pip takes them.

    >>> pinned({"zarr": "3.1.6", "dask": "2026.8.0"})
    'zarr==3.1.6 dask==2026.8.0'
    """
    return " ".join(f"{package}=={version}" for package, version in versions.items())


def config_files(names: Sequence[str], sources: Mapping[str, Sequence[str]]) -> str:
    """What follows ``--config_file`` in an archive for configs of the checkout.

    Args:
        names: without folder and extension, each over those before it.
        sources: as in :func:`archived`.

    Raises:
        ValueError: the archive has no equal.

    >>> config_files(["inference", "export"], {"inference": ["inference.yaml", "release_hela.yaml"]})
    '"[\\'configs/inference.json\\',\\'configs/export.json\\']"'
    """
    own = {tuple(Path(file).stem for file in files): name for name, files in reversed(list(sources.items()))}
    own |= {("inference",): "inference", ("inference_large",): "inference_large"}
    own |= {("train", data): name for data, name in _RENAMED.items()}
    for length in range(len(names), 0, -1):
        complete, overlays = own.get(tuple(names[:length])), names[length:]
        if complete is not None and all(name in archived_configs.OVERLAYS for name in overlays):
            files = [f"configs/{name}.json" for name in (complete, *overlays)]
            return files[0] if len(files) == 1 else '"[' + ",".join(f"'{file}'" for file in files) + ']"'
    raise ValueError(
        f"--config_file {list(names)}: no config of an archive is made of these; mark it as the checkout's"
    )


def pictures(page: str) -> list[str]:
    """Pictures that a page shows, relative to the docs.

    >>> pictures("![tiles](figures/large_blocks.png)")
    ['figures/large_blocks.png']
    """
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)


def missing(page: str, members: Collection[str]) -> list[str]:
    """Files, configs, scripts and pages that a text names and an archive does not hold.

    Args:
        page: text.
        members: names in the archive, relative to the bundle's folder.
    """
    members = set(members)
    written = set(_WRITTEN.findall(page))
    named = {name for pattern in _NAMED for name in pattern.findall(page)}
    gone = {
        name
        for name in named - written
        if name not in members
        and not {f"{folder}/{name}" for folder in ("docs", "configs", "unet_paper")} & members
        and not _ELSEWHERE.fullmatch(name)
    }
    return sorted(gone | set(_MAKE.findall(page)))


def _packages(extra: str, extras: Mapping[str, Mapping[str, str]]) -> str:
    if extra not in extras:
        raise ValueError(f"unet_paper[{extra}]: optional_packages.yaml does not say what it installs")
    return pinned(extras[extra])


def _listed(match: re.Match[str]) -> list[str]:
    return [Path(file).stem for file in (ast.literal_eval(match[1]) if match[1] else [match[2]])]


def _known(name: str, sources: Mapping[str, Sequence[str]]) -> bool:
    return _RENAMED.get(name, name) in sources or name in archived_configs.OVERLAYS

"""What a package for BioImage.IO says of its network: who, what, under which terms, how good, how to use it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_paper.release import archive, terms
from unet_paper.release.mirrored_network import BlockSizes

PAPER = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}
TAGS = ("unet", "2d", "pytorch", "semantic-segmentation", "fiji", "ilastik")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_+\- ()]+")
_DOI = re.compile(r"doi:(10\.\S+)")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is said of weights.

    Args:
        name: of the package; letters, digits and ``_ + - ( )``.
        description: one or two sentences.
        authors: names of those who trained the weights.
        license: SPDX name of the weights' licence; None: there is none of that kind, see ``attachments``.
        data: what they were trained on.
        scores: names and values on held-out images.
        use: what they are meant for.
        tags: further words to find them by.
        cite: what to cite, with ``text`` and ``doi``.
        terms: what the weights may be used for, where that is no licence.
        begun_under: terms of the weights that these were begun from, which hold besides.
        selection: how the scores came about.
        version: of the release; None for weights of one's own.
        attachments: further files by name, terms among them.
    """

    name: str
    description: str
    authors: Sequence[str] = ()
    license: str | None = None
    data: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    use: str = ""
    tags: Sequence[str] = ()
    cite: Sequence[Mapping[str, str]] = (PAPER,)
    terms: str = ""
    begun_under: str = ""
    selection: str = ""
    version: str | None = None
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Fields of ``rdf.yaml``; what is not known is left out."""
        said = {
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "authors": [{"name": name} for name in self.authors],
            "license": self.license,
            "cite": [dict(entry) for entry in self.cite],
            "tags": [*dict.fromkeys([*TAGS, *self.tags])],
        }
        return {name: value for name, value in said.items() if value}

    def missing(self) -> list[str]:
        """Settings that a publication needs besides."""
        given = {"authors": self.authors, "license": self.license or "data_license.txt" in self.attachments}
        return [f"--{name}" for name, value in given.items() if not value]


def card(
    bundle: str | Path,
    ckpt_path: str | Path,
    facts: Mapping[str, Any],
    *,
    title: str | None = None,
    authors: Sequence[str] | None = None,
    license: str | None = None,
) -> Card:
    """The card of weights: of the bundle's own what their release says, of others what they know themselves.

    Args:
        bundle: folder of the bundle.
        ckpt_path: the weights.
        facts: of the weights.
        title: instead of the release's name, or of one made from the data's.
        authors: instead of the release's.
        license: SPDX name of the weights' licence.

    Raises:
        ValueError: a title that leaves no name.
    """
    bundle = Path(bundle)
    metadata = own_metadata(bundle, ckpt_path)
    training = facts.get("training") or {}
    if metadata is None:
        name = title or f"U-Net of 2015 for {training.get('data') or 'cells'}"
        return Card(
            name=_name(name),
            description=f"The U-Net of Ronneberger, Fischer and Brox (2015), trained on {_trained_on(training)}.",
            authors=authors or (),
            license=license,
            data=_trained_on(training),
            scores=_own_scores(training),
            begun_under=terms.of_facts(facts).replace(", see docs/data_license.txt", ""),
            attachments=_files(bundle, "LICENSE"),
        )
    source = metadata.get("data_source", "")
    return Card(
        name=_name(title or metadata["name"]),
        description=metadata["description"],
        authors=authors or [metadata["authors"]],
        license=license,
        data=source,
        scores=metadata.get("eval_metrics", {}),
        use=metadata.get("intended_use", ""),
        tags=[tag.lower().replace(" ", "-") for tag in metadata.get("tags", ())],
        cite=[PAPER, *({"text": source.split(", doi:")[0], "doi": doi} for doi in _DOI.findall(source))],
        terms=metadata.get("weights_license", ""),
        selection=metadata.get("selection", ""),
        version=metadata["version"],
        attachments=_files(bundle, "LICENSE", "docs/data_license.txt"),
    )


def own_metadata(bundle: Path, ckpt_path: str | Path) -> dict[str, Any] | None:
    """Metadata of the release that a checkpoint is the weights of; None for weights of one's own."""
    base = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    weights = Path(ckpt_path).resolve()
    if not (bundle / "releases.yaml").is_file():  # an archive, which is one release
        return dict(base) if weights == (bundle / "models" / "model.pt").resolve() else None
    for release in archive.releases(bundle).values():
        if weights == (bundle / release.weights).resolve():
            return {**base, **release.metadata, **{name: release.card[name] for name in ("tags", "selection")}}
    return None


def page(card: Card, facts: Mapping[str, Any], sizes: BlockSizes, grey_range: tuple[float, float]) -> str:
    """The package's documentation, Markdown.

    Args:
        card: what is said of the weights.
        facts: what they know of their training.
        sizes: of blocks.
        grey_range: grey values of black and of white.
    """
    black, white = grey_range
    classes, smallest, step, halo = ", ".join(facts["classes"]), *sizes
    return f"""# {card.name}

{card.description}

A network for 2D microscopy: each pixel gets the probability of {classes}. Everything that prediction needs is inside:
scaling, normalisation, {_resizing(facts)}mirrored borders, soft-max. The three kinds of weights are one network.

## Input and output

| | |
|---|---|
| grey values | from {black:g} (black) to {white:g} (white), as in the file; nothing is measured on the image |
| other scales | {_other_scales(white)} |
| channels | {_channels(facts["channel"])} |
| sides | {smallest} px or more, in steps of {step} px |
| output | as large as the input, {len(facts["classes"])} channels: {classes} |
| pixel size | {_pixel_size(facts)} |

## Blocks and borders

The halo is {halo} px: a block's inside, without it, equals the same pixels of the whole image to rounding, if blocks
start at multiples of {step} px. At the image's border the network mirrors the image without repeating the pixel at its
edge, as the U-Net paper does. A program that pads the image before it cuts blocks, as bioimageio.core does with that
pixel repeated, changes predictions less than {halo} px from the border, and those alone.

## From probabilities to cells

In this order, with the numbers of `postprocessing.json`:

{_cells(facts["cells"])}

```python
import json
import numpy
from unet_paper import label_instances  # pip install unet_paper

probability = numpy.load("test_output.npy")[0, 1]
cells = label_instances(probability, **json.load(open("postprocessing.json")))
```

## Validation

{_validation(card)}

## Training

Data: {card.data or "not recorded"}. What else the weights know of their training is in `unet_paper.json`.
{card.use and f"{chr(10)}Meant for: {card.use}.{chr(10)}"}
## Licence

{_licence(card)}

## Cite

{chr(10).join(f"- {entry['text']}, doi:{entry['doi']}" for entry in card.cite)}
"""


def _resizing(facts: Mapping[str, Any]) -> str:
    scale = facts["magnification"]
    return "" if scale == 1 else f"resizing by {scale:g} and back, "


def _channels(channel: Any) -> str:
    if channel is None:
        return "all of the training's images, in their order"
    several = isinstance(channel, list | tuple)
    taken = ", ".join(
        f"number {one} (from 0)" if str(one).isdecimal() else str(one) for one in (channel if several else [channel])
    )
    return f"of an image of several {taken}{', in this order' if several else ''}"


def _other_scales(white: float) -> str:
    if white != 255:
        return "Other images must be brought to this scale."
    return "Images of 16 bits must be brought to this scale: divide them by 257, or by 16 if their white is 4095."


def _pixel_size(facts: Mapping[str, Any]) -> str:
    size = facts["pixel_size"]
    return "not recorded; cells should be as large as in the training images" if not size else f"{size:g} micrometres"


def _cells(cells: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{threshold:g}" for threshold in cells["split_thresholds"])
    steps = [
        f"foreground: probability above {cells['threshold']:g}",
        f"its connected components, {cells['connectivity']} neighbours a pixel",
        f"those without a square of {cells['min_width']} px dropped" if cells.get("min_width", 1) > 1 else "",
        f"those that fall apart at a higher threshold ({parts}) are parted by a watershed" if parts else "",
        "holes filled" if cells["fill_holes"] else "",
        f"fewer than {cells['min_size']} px dropped" if cells["min_size"] else "",
        f"gaps between two cells closed, {cells['regrow']} px from either side" if cells["regrow"] else "",
        f"cells wholly in the outer {cells['field_of_interest']} px dropped" if cells["field_of_interest"] else "",
    ]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(filter(None, steps), 1))


def _validation(card: Card) -> str:
    if not card.scores:
        return (
            "No scores are recorded with these weights. Compare predictions on a few annotated images of yours first."
        )
    rows = "\n".join(f"| {name} | {value} |" for name, value in card.scores.items())
    return (
        "On held-out images of the training data, on which the post-processing above was chosen:\n\n"
        f"| score | value |\n|---|---|\n{rows}\n\n"
        f"{card.selection and f'How they came about: {card.selection}. '}"
        "On images of another kind, compare predictions on a few annotated images of yours first."
    )


def _licence(card: Card) -> str:
    code = "The code (`network.py`) is under Apache-2.0 (`LICENSE`)."
    if card.begun_under:
        code = f"They were begun from other weights, whose terms hold besides: {card.begun_under}. {code}"
    if card.license:
        return f"The weights are under {card.license}. {code}"
    if "data_license.txt" in card.attachments:
        said = f" {card.terms.replace('docs/data_license.txt', '`data_license.txt`')}." if card.terms else ""
        return (
            f"What the weights may be used for follows from the terms of their data, `data_license.txt`.{said} {code}"
        )
    return f"Whoever trained the weights has not said under which licence they are. {code}"


def _name(title: str) -> str:
    name = " ".join(_NOT_IN_NAMES.sub(" ", title).split())
    if not 5 <= len(name) <= 128:
        raise ValueError(f"title={title!r}: BioImage.IO takes 5 to 128 letters, digits and _ + - ( )")
    return name


def _trained_on(training: Mapping[str, Any]) -> str:
    images = (training.get("images") or {}).get("training")
    return f"{images or 'the'} images of {training.get('data') or 'an unnamed data set'}"


def _own_scores(training: Mapping[str, Any]) -> dict[str, Any]:
    """The score that training chose the post-processing by: the only one that is surely of these weights."""
    chosen = training.get("cells_choice") or {}
    return {chosen["score"]: round(chosen["value"], 4)} if "score" in chosen and chosen.get("value") else {}


def _files(bundle: Path, *names: str) -> dict[str, bytes]:
    return {Path(name).name: (bundle / name).read_bytes() for name in names if (bundle / name).is_file()}

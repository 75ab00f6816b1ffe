"""Turn a checkpoint of a run into weights for release: flat, half precision, with the checksum for inference.yaml.

python scripts/export_weights.py runs/isbi2012/model.pt bundle/models/model.pt

What the weights know of their training goes along. Weights from before they knew anything are told by --release, from
bundle/releases.yaml and the overlays that it names:

python scripts/export_weights.py old.pt bundle/models/model.pt --release unet_em_segmentation

With --dataset_dir, the data of that training, threshold and smallest cell are chosen on its held-out images.

What was chosen on held-out images after training, for prediction alone, takes the place of what the weights say:

python scripts/export_weights.py runs/phc_u373/model.pt bundle/models/u373.pt --magnification 1.12

The mean of several checkpoints of one line of training, with what the first one knows:

python scripts/export_weights.py runs/further/model.pt bundle/models/u373.pt --average_with EARLIER.pt
"""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from unet_paper.instances import PRESETS
from unet_paper.release import archive
from unet_paper.running.checkpoint import export_weights, read_weights_and_facts, sha256
from unet_paper.running.facts import Facts

BUNDLE = Path(__file__).resolve().parent.parent / "bundle"


def main() -> None:
    """Write the weights and print their SHA-256."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    releases = archive.releases(BUNDLE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="model.pt or last.pt of a run")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--release", choices=releases, help="say that the weights were trained as this release was")
    parser.add_argument("--dataset_dir", help="data of the training of --release, to choose the post-processing on")
    parser.add_argument("--magnification", type=float, help="of images before prediction, in place of the weights' own")
    parser.add_argument("--cells_preset", choices=sorted(PRESETS), help="post-processing in place of the weights' own")
    parser.add_argument("--average_with", nargs="+", default=[], metavar="FILE", help="write the mean with these")
    arguments = parser.parse_args()
    facts = Facts.of(read_weights_and_facts(arguments.source)[1])
    if arguments.release is not None:
        release = releases[arguments.release]
        facts = archive.release_facts(BUNDLE, release, arguments.source, dataset_dir=arguments.dataset_dir)
    changes: dict[str, Any] = {}
    if arguments.magnification is not None:
        changes["magnification"] = arguments.magnification
    if arguments.cells_preset is not None:
        changes |= {"cells_preset": arguments.cells_preset, "cells": PRESETS[arguments.cells_preset]}
    if changes and facts is None:
        parser.error(
            f"{arguments.source}: knows nothing of its training that {', '.join(changes)} could replace; --release"
        )
    if changes and facts is not None:
        facts = dataclasses.replace(facts, **changes)
    if facts is not None and arguments.average_with:
        others = [sha256(path) for path in arguments.average_with]
        facts = dataclasses.replace(facts, training={**facts.training, "averaged_with": others})
    tensor = None if facts is None else facts.to_tensor()
    print(f"--ckpt_sha256 {export_weights(arguments.source, arguments.target, tensor, arguments.average_with)}")


if __name__ == "__main__":
    main()

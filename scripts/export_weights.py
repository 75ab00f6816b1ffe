"""Turn a checkpoint of a run into weights for release: flat, half precision, with the checksum for inference.yaml.

python scripts/export_weights.py runs/isbi2012/model.pt bundle/models/model.pt

What the weights know of their training goes along. Weights from before they knew anything are told by --release, from
bundle/releases.yaml and the overlays that it names:

python scripts/export_weights.py old.pt bundle/models/model.pt --release unet_em_segmentation

With --dataset_dir, the data of that training, threshold and smallest cell are chosen on its held-out images.
"""

import argparse
import logging
from pathlib import Path

from unet_paper.release import archive
from unet_paper.running.checkpoint import export_weights

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
    arguments = parser.parse_args()
    facts = None
    if arguments.release is not None:
        release = releases[arguments.release]
        facts = archive.release_facts(BUNDLE, release, arguments.source, dataset_dir=arguments.dataset_dir).to_tensor()
    print(f"--ckpt_sha256 {export_weights(arguments.source, arguments.target, facts)}")


if __name__ == "__main__":
    main()

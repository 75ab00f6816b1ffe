"""Turn a checkpoint of a run into weights for release: flat, half precision, with the checksum for inference.yaml.

python scripts/export_weights.py runs/isbi2012/model.pt bundle/models/model.pt
"""

import argparse

from unet_paper.running.checkpoint import export_weights


def main() -> None:
    """Write the weights and print their SHA-256."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="model.pt or last.pt of a run")
    parser.add_argument("target", help="file to write")
    arguments = parser.parse_args()
    print(f"--ckpt_sha256 {export_weights(arguments.source, arguments.target)}")


if __name__ == "__main__":
    main()

"""Grey mean and standard deviation of a folder of images: what --grey_mean and --grey_std want for data of your own.

python scripts/prepare_data.py FOLDER/images
"""

import argparse
from pathlib import Path

from unet_paper.data.datasets import images
from unet_paper.data.grey_statistics import grey_statistics
from unet_paper.running import settings


def main() -> None:
    """Print the two settings for the images of a folder."""
    settings.explain_errors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of training images, or of a folder 'images'; or one file")
    parser.add_argument("--grey_minimum", type=float, default=0.0, help="grey value that is black, as in training")
    parser.add_argument("--grey_maximum", type=float, help="grey value that is white, as in training")
    parser.add_argument("--channel", help="number or name of the channel, as in training")
    given = parser.parse_args()
    folder = given.folder / "images" if (given.folder / "images").is_dir() else given.folder
    mean, std, _ = grey_statistics(
        images(folder), grey_minimum=given.grey_minimum, grey_maximum=given.grey_maximum, channel=given.channel
    )
    print(f"--grey_mean {mean:.4f} --grey_std {std:.4f}")


if __name__ == "__main__":
    main()

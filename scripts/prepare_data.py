"""Grey mean and standard deviation of a folder of images: what --grey_mean and --grey_std want for data of your own.

python scripts/prepare_data.py FOLDER/images
"""

import argparse

from unet_paper.data.datasets import grey_statistics, images


def main() -> None:
    """Print the two settings for the images of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of training images, or one file")
    mean, std = grey_statistics(images(parser.parse_args().folder))
    print(f"--grey_mean {mean:.4f} --grey_std {std:.4f}")


if __name__ == "__main__":
    main()

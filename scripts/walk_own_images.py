"""Type the lines of bundle/docs/own_images.md on a phantom, and draw the page's pictures from what they leave.

python scripts/walk_own_images.py FOLDER [--minutes 4]
"""

import argparse
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unet_paper.app.check_page import outlined
from unet_paper.app.command_line import main
from unet_paper.data import phantom
from unet_paper.data.reader import LabelReader, PageReader

DOCS = Path(__file__).resolve().parent.parent / "bundle" / "docs"
PAGE = DOCS / "own_images.md"
FIGURES = DOCS / "figures"
# of a picture with four images side by side
_WIDTH = 880


def lines(page: str) -> list[str]:
    """What one types: the lines of the page's blocks of the shell."""
    blocks = page.split("```sh\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines() if line]


def prepare(folder: Path, size: int) -> None:
    """The folders that the page begins with, of a phantom."""
    source = Path(phantom.write(folder / "phantom", kind="folder", frames=12, size=size, seed=4))
    (folder / "cells").mkdir()
    for part in ("images", "masks"):
        shutil.copytree(source / part, folder / "cells" / part)
    shutil.copytree(source / "new_images", folder / "new_images")


def walk(typed: Sequence[str], settings: Mapping[str, Sequence[str]]) -> None:
    """Type lines in the present folder.

    Args:
        typed: commands, of ``unet-paper`` or the shell.
        settings: words that are added to each command of ``unet-paper``, by its name.

    Raises:
        RuntimeError: a command that fails.
    """
    for line in typed:
        words = shlex.split(line)
        if words[0] == "unet-paper":
            code = main([*words[1:], *settings.get(words[1], ())])
        else:
            code = subprocess.run(words, check=False, timeout=60).returncode
        if code:
            raise RuntimeError(f"{line}: exit code {code}")


def draw(folder: Path, figures: Path) -> None:
    """The page's pictures, from what a walk left in a folder."""
    images, masks = folder / "cells" / "images", folder / "cells" / "masks"
    annotated = [
        outlined(PageReader().get_data(images / name)[0][None], LabelReader().get_data(masks / name)[0])
        for name in sorted(path.name for path in images.iterdir())[:4]
    ]
    _save(_side_by_side(annotated), figures / "own_images_check.png")
    found = sorted((folder / "runs" / "predictions" / "new_images").glob("*_outlines.png"))
    predicted = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    _save(_side_by_side(predicted), figures / "own_images_predictions.png")
    curves = Image.open(folder / "runs" / "cells" / "curves.png").convert("RGB")
    curves.thumbnail((_WIDTH, _WIDTH))
    _save(np.asarray(curves), figures / "own_images_curves.png")


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((images[0].shape[0], 8, 3), 255, np.uint8)
    row = np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)
    picture = Image.fromarray(row)
    picture.thumbnail((_WIDTH, _WIDTH), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _save(picture: np.ndarray, path: Path) -> None:
    Image.fromarray(picture).quantize(128).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="empty folder to work in")
    parser.add_argument("--minutes", default="4", help="of each training")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    prepare(Path(), 256)
    walk(lines(PAGE.read_text(encoding="utf-8")), {"train": ["--minutes", given.minutes]})
    draw(Path(), FIGURES)

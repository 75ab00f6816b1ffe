"""Reads files as the checkout under attack does, one name a line, and says what it found; see ``damage.py``.

python scripts/attack/reading.py image|checkpoint      # with the checkout on PYTHONPATH
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer each line of the input with a line: a digest of what was read, or the error."""
    read = {"image": image_reader, "checkpoint": checkpoint_reader}[sys.argv[1]]()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            answer = {"digest": hashlib.sha256(read(line.rstrip("\n"))).hexdigest()}
        except Exception as error:
            while error.__cause__ is not None and str(error).startswith("applying transform"):
                error = error.__cause__  # type: ignore[assignment]
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def image_reader() -> Callable[[str], bytes]:
    """Pixels of an image, by the transforms of the config for inference."""
    import numpy as np
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    reader = _module("data.reader", "reader")
    load = Compose([LoadImaged("image", reader=reader.PageReader()), EnsureChannelFirstd("image")])
    check = reader.CheckImaged("image", channels=1)

    def read(path: str) -> bytes:
        return np.asarray(check(load({"image": path}))["image"]).tobytes()

    return read


def checkpoint_reader() -> Callable[[str], bytes]:
    """Tensors of a network, as they are loaded before prediction."""
    checkpoint = _module("running.checkpoint", "checkpoint")

    def read(path: str) -> bytes:
        weights = checkpoint.read_weights(path)
        return b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))

    return read


def _module(*names: str) -> Any:
    import unet_paper

    # by its file: a module that the checkout lacks would be taken from a package that is installed for editing
    root = Path(str(unet_paper.__file__)).parent
    for name in names:
        if (root / f"{name.replace('.', '/')}.py").is_file():
            return importlib.import_module(f"unet_paper.{name}")
    raise ModuleNotFoundError(f"{root} has none of {', '.join(names)}")


if __name__ == "__main__":
    main()

"""TorchScript of a release's network: the same bytes on every machine.

The names in such a file count what a process has scripted before, and constants stand in the order of a set. So it is
written by a process of its own with a fixed seed of hashes, and without the debugging records, which name folders of a
machine.
"""

import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import unet_paper

_DEBUGGING = (".debug_pkl", ".data/serialization_id")
_TIMEOUT = 300


def torchscript(network: Mapping[str, Any], state: Mapping[str, torch.Tensor], extra: Mapping[str, str]) -> bytes:
    """Content of a TorchScript file.

    Args:
        network: arguments of :class:`unet_paper.network.UNet`.
        state: its weights.
        extra: files that it carries, by name.

    Raises:
        RuntimeError: the network cannot be made or scripted of these.
    """
    weights = io.BytesIO()
    torch.save({name: value.float() for name, value in sorted(state.items())}, weights)
    scripted = _by_a_new_process(json.dumps(network, sort_keys=True), weights.getvalue())
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(scripted)) as source, zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as target:
        members = {name: source.read(name) for name in source.namelist() if not name.endswith(_DEBUGGING)}
        root = next(iter(members)).split("/")[0]
        members |= {f"{root}/extra/{name}": text.encode() for name, text in extra.items()}
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name), data)
    return written.getvalue()


@functools.lru_cache(maxsize=4)
def _by_a_new_process(network: str, weights: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "weights.pt", Path(folder) / "model.ts"
        source.write_bytes(weights)
        paths = [str(Path(unet_paper.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", "unet_paper.release.scripted_network", network, str(source), str(target)],
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
        if done.returncode:
            raise RuntimeError(f"network={network}: cannot be scripted: {done.stderr.strip()[-1000:]}")
        return target.read_bytes()


def _script(network: str, source: str, target: str) -> None:
    from unet_paper.network import UNet

    scripted = UNet(**json.loads(network)).eval()
    scripted.load_state_dict(torch.load(source, weights_only=True))
    torch.jit.save(torch.jit.script(scripted), target)


if __name__ == "__main__":
    _script(*sys.argv[1:])

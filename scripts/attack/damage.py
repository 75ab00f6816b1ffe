"""Files that were damaged on the way: flipped bits, lost blocks, ends cut off, junk; images and checkpoints."""

import json
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from attacking import Arena, Outcome, Trial, attack

SECONDS = 120


class Reader:
    """A process that reads files as the checkout does, and is started anew when a file has killed or hung it."""

    def __init__(self, arena: Arena, kind: str) -> None:
        self.arena = arena
        self.kind = kind
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> dict[str, str]:
        """``digest`` of the content, ``error``, or ``crash``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("reading.py")), self.kind],
                env=self.arena.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            if not self._answer(8 * SECONDS).get("ready"):
                raise RuntimeError(f"{self.kind}s cannot be read at all")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return self._answer(SECONDS)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self, seconds: float) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                self.close()
                return {"crash": f"hung for {seconds:g} s"}
            line = self._process.stdout.readline()
            if not line:
                status = self._process.wait()
                self.close()
                return {"crash": f"the process died (status {status})"}
            if line.startswith("{"):
                answer: dict[str, str] = json.loads(line)
                return answer


def damaged(content: bytes, chance: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged copies of a file, with what was done to each."""
    for turn in range(number):
        kind = ("bit", "block", "cut", "zeros", "junk")[turn % 5]
        data = bytearray(content)
        place = chance.randrange(len(data))
        if kind == "bit":
            data[place] ^= 1 << chance.randrange(8)
        elif kind == "block":
            length = min(chance.choice((64, 512, 4096)), len(data) - place)
            data[place : place + length] = chance.randbytes(length)
        elif kind == "cut":
            del data[place:]
        elif kind == "zeros":
            length = min(chance.choice((64, 512, 4096)), len(data) - place)
            data[place : place + length] = bytes(length)
        else:
            data[place:place] = chance.randbytes(chance.choice((1, 7, 100)))
        yield f"{kind} at byte {place} of {len(content)}", bytes(data)


def _read_all(
    arena: Arena, kind: str, whole: Path, number: int, *, noticed: bool, chance: random.Random
) -> Iterator[Trial]:
    """Read damaged copies of a file; other content than that of the whole one is lost if damage can be ``noticed``."""
    reader = Reader(arena, kind)
    right = reader.read(whole).get("digest")
    assert right is not None, f"{whole}: cannot be read undamaged"
    for what, data in damaged(whole.read_bytes(), chance, number):
        if data == whole.read_bytes():
            continue
        path = whole.with_name(f"damaged_{whole.name}")
        path.write_bytes(data)
        answer = reader.read(path)
        named = f"{whole.name}, {what}"
        if "crash" in answer:
            yield Trial(named, Outcome.LOST, answer["crash"])
        elif "error" in answer:
            said = path.name in answer["error"]
            yield Trial(named, Outcome.REFUSED if said else Outcome.LOST, "" if said else answer["error"][:200])
        elif answer["digest"] == right or not noticed:
            yield Trial(named, Outcome.SURVIVED)
        else:
            yield Trial(named, Outcome.LOST, "read as something else without a word")
    reader.close()


@attack("damaged checkpoints", short=False)
def damaged_checkpoints(arena: Arena) -> Iterator[Trial]:
    """``model.pt`` and ``last.pt`` of a run, damaged: refused naming the file, or the same weights."""
    from training_runs import Runs

    chance = random.Random(arena.seed)
    folder = Runs(arena).whole
    for name in ("model.pt", "last.pt"):
        yield from _read_all(
            arena, "checkpoint", folder / name, 10 if arena.short else 250, noticed=True, chance=chance
        )


@attack("damaged images", short=False)
def damaged_images(arena: Arena) -> Iterator[Trial]:
    """Images, damaged. Those whose format has checksums: refused naming the file, or the same pixels."""
    import nibabel as nib
    import numpy as np
    import tifffile
    from PIL import Image

    chance = random.Random(arena.seed)
    rows, columns = np.mgrid[:96, :128]
    image = (100 + 60 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8)
    noisy = (image + np.random.default_rng(arena.seed).integers(0, 30, image.shape)).astype(np.uint8)
    tifffile.imwrite(arena.folder / "plain.tif", noisy)
    tifffile.imwrite(arena.folder / "deflated.tif", noisy, compression="zlib")
    tifffile.imwrite(arena.folder / "lzw.tif", noisy, compression="lzw")
    Image.fromarray(noisy).save(arena.folder / "image.png")
    Image.fromarray(noisy).save(arena.folder / "image.jpg")
    nib.save(nib.Nifti1Image(noisy, np.eye(4)), arena.folder / "image.nii.gz")  # type: ignore[no-untyped-call]
    for name, noticed in (
        ("plain.tif", False),
        ("lzw.tif", False),
        ("image.jpg", False),
        ("deflated.tif", False),  # its pixels have a checksum, its tags have none
        ("image.png", True),
        ("image.nii.gz", True),
    ):
        number = 5 if arena.short else 130
        yield from _read_all(arena, "image", arena.folder / name, number, noticed=noticed, chance=chance)

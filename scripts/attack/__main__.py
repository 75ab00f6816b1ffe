"""Attack this package, or another checkout of it, and print what was tried, refused, survived and lost.

    python scripts/attack                                   # this checkout, all attacks, minutes
    python scripts/attack --package CHECKOUT --json FILE    # another one; what was found goes to FILE
    python scripts/attack --only "hostile archives"
    python scripts/attack --report bundle/docs/reliability.md [--before FILE]

Everything happens in a scratch folder and on the loopback. The exit status is 1 if anything was lost.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reliability
from attacking import ATTACKS, Arena, Attack, Outcome, Trial

ROOT = Path(__file__).resolve().parent.parent.parent
# each enters its attacks into ATTACKS
MODULES = ("archives",)


def main() -> None:
    """Command line."""
    arguments = _arguments()
    package = arguments.package.resolve()
    if not (package / "unet_paper" / "__init__.py").is_file():
        sys.exit(f"--package {arguments.package}: holds no unet_paper/__init__.py; name the root of a checkout")
    sys.path.insert(0, str(package))
    for module in MODULES:
        __import__(module)
    chosen = [entry for entry in ATTACKS if not arguments.only or entry.name in arguments.only]
    if unknown := set(arguments.only) - {entry.name for entry in ATTACKS}:
        sys.exit(f"--only {sorted(unknown)}: attacks are {', '.join(entry.name for entry in ATTACKS)}")
    rows = [run(entry, package, short=arguments.short, seed=arguments.seed) for entry in chosen]
    print("\n".join(reliability.table(rows)))
    print("\n".join(reliability.losses(rows)))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.report:
        before = json.loads(arguments.before.read_text(encoding="utf-8")) if arguments.before else None
        arguments.report.write_text(reliability.page(rows, before), encoding="utf-8")
    sys.exit(any(row["lost"] for row in rows))


def run(entry: Attack, package: Path, *, short: bool, seed: int) -> dict[str, Any]:
    """Row of the table of one attack; one that breaks down itself has lost."""
    start, trials = time.monotonic(), list[Trial]()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        arena = Arena(package=package, folder=Path(folder), short=short, seed=seed)
        try:
            for trial in entry.run(arena):
                trials.append(trial)
                if trial.outcome == Outcome.LOST:
                    print(f"LOST  {entry.name}: {trial.what}: {trial.detail}", file=sys.stderr, flush=True)
        except Exception as error:
            trials.append(Trial("the attack itself", Outcome.LOST, f"broke down: {type(error).__name__}: {error}"))
    row = summary(entry.name, trials, seconds=time.monotonic() - start)
    print(f"{entry.name}: {row['tried']} tried in {row['seconds']:.0f} s", file=sys.stderr, flush=True)
    return row


def summary(name: str, trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """Numbers of trials by outcome, and those that were lost by name."""
    count = Counter(trial.outcome for trial in trials)
    return {
        "attack": name,
        "tried": len(trials),
        **{outcome.value: count[outcome] for outcome in Outcome},
        "losses": [{"what": trial.what, "detail": trial.detail} for trial in trials if trial.outcome == Outcome.LOST],
        "seconds": round(seconds, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT, help="root of the checkout to attack; default: this one")
    parser.add_argument("--only", action="append", default=[], help="name of an attack; may be given several times")
    parser.add_argument("--short", action="store_true", help="a few trials of each kind, as the tests do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--report", type=Path, help="write the page of docs to this file")
    parser.add_argument("--before", type=Path, help="--json of another checkout, for the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()

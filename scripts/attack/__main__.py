"""Attack this package, or another checkout of it, and print what was tried, refused, survived and lost.

    python scripts/attack                                   # this checkout, all attacks, minutes
    python scripts/attack --package CHECKOUT --json FILE    # another one; what was found goes to FILE
    python scripts/attack --only "hostile archives"
    python scripts/attack --report bundle/docs/reliability.md [--before FILE --earlier COMMIT]

Everything happens in a scratch folder and on the loopback. The exit status is 1 if anything was lost.
"""

import argparse
import json
import runpy
import signal
import sys
from pathlib import Path

import reliability
import runner
from attacking import ATTACKS, ONLY_THIS

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Command line."""
    arguments = _arguments()
    # a shell's background and nohup ignore them, which what is started here would inherit; handlers are not inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: None)
    package = arguments.package.resolve()
    if not (package / "unet_paper" / "__init__.py").is_file():
        sys.exit(f"--package {arguments.package}: holds no unet_paper/__init__.py; name the root of a checkout")
    sys.path.insert(0, str(package))
    runpy.run_path(str(ONLY_THIS / "sitecustomize.py"))
    runner.load()
    chosen = [entry for entry in ATTACKS if not arguments.only or entry.name in arguments.only]
    if unknown := set(arguments.only) - {entry.name for entry in ATTACKS}:
        sys.exit(f"--only {sorted(unknown)}: attacks are {', '.join(entry.name for entry in ATTACKS)}")
    found = {row["attack"]: row for file in arguments.found for row in json.loads(file.read_text(encoding="utf-8"))}
    rows = []
    for entry in chosen:
        rows.append(found.get(entry.name) or runner.run(entry, package, short=arguments.short, seed=arguments.seed))
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(reliability.table(rows)))
    print("\n".join(reliability.losses(rows)))
    if arguments.report:
        before = json.loads(arguments.before.read_text(encoding="utf-8")) if arguments.before else None
        arguments.report.write_text(reliability.page(rows, before, arguments.earlier), encoding="utf-8")
    sys.exit(any(row["lost"] for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT, help="root of the checkout to attack; default: this one")
    parser.add_argument("--only", action="append", default=[], help="name of an attack; may be given several times")
    parser.add_argument("--short", action="store_true", help="a few trials of each kind, as the tests do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument(
        "--found",
        type=Path,
        action="append",
        default=[],
        help="--json of attacks on this checkout that are not run again",
    )
    parser.add_argument("--report", type=Path, help="write the page of docs to this file")
    parser.add_argument("--before", type=Path, help="--json of another checkout, for the page")
    parser.add_argument("--earlier", default="", help="which checkout that is")
    return parser.parse_args()


if __name__ == "__main__":
    main()

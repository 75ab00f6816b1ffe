"""Build the archives of the releases: dist/NAME_vX.Y.Z.zip, and dist/model_info.json with their checksums.

python scripts/package_bundle.py                                    # every release that has weights
python scripts/package_bundle.py --weights runs/isbi2012/model.pt   # of the release whose data they were trained on
python scripts/package_bundle.py --github OWNER/REPOSITORY          # for its release vX.Y.Z, and models/model_info.json
python scripts/package_bundle.py --bioimage_io                      # packages for BioImage.IO instead, dist/bioimage_io
python scripts/package_bundle.py --cards                            # write the cards in bundle/docs/README.md
"""

import argparse
import logging
from pathlib import Path

import monai.bundle

import unet_paper
from unet_paper.release import archive, model_card, registry
from unet_paper.running import tables

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundle"
# where MONAI looks in a repository
REGISTRY = ROOT / "models" / registry.INFO


def main() -> None:
    """Build them, and say what was built or left out."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    table = archive.releases(BUNDLE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", nargs="+", choices=table, help="default: all that have weights")
    parser.add_argument("--output_dir", default="dist", type=Path)
    parser.add_argument("--weights", nargs="+", default=[], type=Path, help="a file per --release, or by their data")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--base_url", help="URL of the folder that the archives will be served from")
    place.add_argument(
        "--github", metavar="OWNER/REPOSITORY", help=f"of its release; also writes models/{registry.INFO}"
    )
    parser.add_argument(
        "--bioimage_io", action="store_true", help="packages for BioImage.IO, by export_bioimage_io.yaml"
    )
    parser.add_argument(
        "--cards", action="store_true", help="write bundle/docs/README.md from releases.yaml, no archives"
    )
    arguments = parser.parse_args()
    if arguments.cards:
        cards = [
            model_card.card_table(release.weights, release.card, release.metadata["weights_license"])
            for release in table.values()
        ]
        tables.replace_block(BUNDLE / "docs" / "README.md", "\n".join(cards), "cards")
        return
    if arguments.weights and arguments.release and len(arguments.weights) != len(arguments.release):
        parser.error(f"--weights: {len(arguments.weights)} files; give one for each --release")
    if arguments.weights and not arguments.release:
        try:
            arguments.release = [archive.release_of(BUNDLE, file).name for file in arguments.weights]
        except (OSError, ValueError) as error:
            parser.exit(1, f"{type(error).__name__}: {error}\n")
        if len(set(arguments.release)) < len(arguments.release):
            parser.error(f"--weights: {len(arguments.weights)} files of the same data; give one for each release")
    names = arguments.release or [name for name in table if (BUNDLE / table[name].weights).is_file()]
    weights = dict(zip(names, arguments.weights, strict=False))
    built = []
    try:
        base_url = (
            registry.github_release(arguments.github, unet_paper.__version__)
            if arguments.github
            else arguments.base_url
        )
        for name in names:
            if arguments.bioimage_io:
                print(bioimage_io(table[name], arguments.output_dir / "bioimage_io", weights.get(name)))
                continue
            built.append(
                archive.build(BUNDLE, table[name], arguments.output_dir, weights=weights.get(name), base_url=base_url)
            )
            print(built[-1])
        if arguments.github and built:
            registry.write_for_monai(built, REGISTRY)
            print(REGISTRY)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")
    for name in table.keys() - set(names) if arguments.release is None else ():
        print(f"left out: {name}, {BUNDLE / table[name].weights} is not there")


def bioimage_io(release: archive.Release, folder: Path, weights: Path | None) -> Path:
    """Package of a release for BioImage.IO."""
    target = folder / f"{release.name}.zip"
    configs = ("inference.yaml", *release.inference, "export_bioimage_io.yaml")
    files = [str(BUNDLE / "configs" / name) for name in configs]
    given = {"ckpt_path": str(weights)} if weights else {}
    monai.bundle.run(run_id="run", config_file=files, export_path=str(target), **given)
    return target


if __name__ == "__main__":
    main()

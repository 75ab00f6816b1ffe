"""Reproduces Tables 1 and 2 of the paper: evaluates our checkpoints, and puts their scores beside those of others.

    python scripts/reproduce_tables.py --data data --isbi2012 runs/isbi2012/model.pt --phc_u373 runs/phc_u373/model.pt

Several checkpoints of a data set, ``--isbi2012 A.pt B.pt``, are a cross-validation: the first was trained without
fold 0, the second without fold 1, and so on; the tables give mean and standard deviation over the folds. With
``--compare_precision bfloat16`` the first of each is evaluated in that precision too. The data folder holds the
challenges' own folders isbi2012, PhC-C2DH-U373 and DIC-C2DH-HeLa. Written to the output folder: results.md,
results.csv, results.png, and a full evaluation of every checkpoint. Every other --name value is a setting of the
bundle's evaluate.yaml, for instance --symmetries all, --folds 5 or --device cuda:0.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import monai.bundle
import yaml
from matplotlib.figure import Figure

from unet_paper.running import checkpoint, figures, logbook
from unet_paper.running.tables import markdown_table, replace_block

CONFIGS = Path(__file__).resolve().parent.parent / "bundle" / "configs"
PAPER = "Ronneberger et al. 2015, arXiv:1505.04597"


class DataSet(NamedTuple):
    """One column, or block of columns, of the paper's tables."""

    title: str
    folder: str
    table: int
    scores: tuple[str, ...]


class Published(NamedTuple):
    """Scores that others published, on the hidden test images of the challenge."""

    who: str
    table: int
    scores: Mapping[tuple[str, str], float]
    source: str


# the first five are published; Rand errors most likely those of the pixels in cells, see bundle/docs/metrics.md
EM_SCORES = ("warping_error", "rand_error_cells", "pixel_error", "V_rand", "V_info", "rand_error")
DATA_SETS = {
    "isbi2012": DataSet("ISBI 2012", "isbi2012", 1, EM_SCORES),
    "phc_u373": DataSet("PhC-C2DH-U373", "PhC-C2DH-U373", 2, ("SEG", "DET", "OP_CSB", "IoU")),
    "dic_hela": DataSet("DIC-C2DH-HeLa", "DIC-C2DH-HeLa", 2, ("SEG", "DET", "OP_CSB", "IoU")),
}


def _em(*values: float) -> dict[tuple[str, str], float]:
    return {("isbi2012", score): value for score, value in zip(EM_SCORES, values, strict=False)}


def _cells(phc_u373: float, dic_hela: float) -> dict[tuple[str, str], float]:
    return {("phc_u373", "SEG"): phc_u373, ("dic_hela", "SEG"): dic_hela}


LEADERBOARD = "leaderboard of the ISBI 2012 challenge, later, doi:10.3389/fnana.2015.00142"
PUBLISHED = (
    Published("U-Net, the paper", 1, _em(0.000353, 0.0382, 0.0611), f"{PAPER}, Table 1"),
    Published("best others then", 1, _em(0.000355, 0.0189, 0.0582), f"{PAPER}, Table 1, best of each column"),
    Published("second human", 1, _em(0.000005, 0.0021, 0.0010), f"{PAPER}, Table 1"),
    Published("U-Net, leaderboard", 1, {("isbi2012", "V_rand"): 0.97276, ("isbi2012", "V_info"): 0.98662}, LEADERBOARD),
    Published("best, leaderboard", 1, {("isbi2012", "V_rand"): 0.98680, ("isbi2012", "V_info"): 0.99144}, LEADERBOARD),
    Published("U-Net, the paper", 2, _cells(0.9203, 0.7756), f"{PAPER}, Table 2"),
    Published("second best of 2015", 2, _cells(0.83, 0.46), f"{PAPER}, Table 2"),
    Published("best since (CALT-US)", 2, _cells(0.931, 0.887), "Cell Tracking Challenge, celltrackingchallenge.net"),
)
LOWER_IS_BETTER = ("warping_error", "rand_error_cells", "pixel_error", "rand_error")


def features(weights: str | Path) -> list[int]:
    """Channels of each level of the network that a checkpoint belongs to."""
    state = checkpoint.read_weights(weights)
    names = (f"contracting.{level}.0.weight" for level in range(len(state)))
    return [int(state[name].shape[0]) for name in names if name in state]


def evaluate(
    name: str, data: Path, weights: Path, output_dir: Path, recipe: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the bundle's evaluating workflow for one data set.

    Args:
        name: key of ``DATA_SETS``.
        data: folder that holds the data set's folder.
        weights: checkpoint.
        output_dir: the evaluation goes to ``output_dir/name/evaluation``.
        recipe: that the checkpoint was trained with, ``paper`` or ``best``.
        settings: further settings of the config.

    Returns:
        The summary that the evaluation wrote.
    """
    run = output_dir / name
    best = [f"best_{name}"] if recipe == "best" else []
    monai.bundle.run(
        run_id="evaluating",
        config_file=[str(CONFIGS / f"{config}.yaml") for config in ("train", f"data_{name}", *best, "evaluate")],
        logging_file=str(CONFIGS / "logging.conf"),
        **{
            "dataset_dir": str(data / DATA_SETS[name].folder),
            "ckpt_path": str(weights),
            "output_dir": str(run),
            "recipe": recipe,
            "features": features(weights),
            **settings,
        },
    )
    summary: dict[str, Any] = json.loads((run / "evaluation" / "summary.json").read_text())
    return summary


def cross_validate(
    name: str, data: Path, weights: Sequence[Path], output_dir: Path, recipe: str, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """``evaluate`` for one checkpoint, or for those of fold 0, 1 and so on, each in a folder of its own."""
    if len(weights) == 1:
        return [evaluate(name, data, weights[0], output_dir, recipe, settings)]
    return [
        evaluate(name, data, path, output_dir / f"fold_{fold}", recipe, {**settings, "fold": fold})
        for fold, path in enumerate(weights)
    ]


def rows(summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Every score of ours, by fold, and of others, one row each; a data set without a summary has a row that says so.

    Args:
        summaries: what ``cross_validate`` returned, by data set.
    """
    found: list[dict[str, Any]] = []
    for name, data_set in DATA_SETS.items():
        common = {"table": data_set.table, "data_set": data_set.title, "who": "ours"}
        if name not in summaries:
            found.append({**common, "scored_on": "no checkpoint given"})
        for summary in summaries.get(name, ()):
            ours = {
                **common,
                "scored_on": split(summary),
                "recipe": summary["conventions"]["recipe"],
                "checkpoint_sha256": summary["checkpoint"]["sha256"],
            }
            found += [{**ours, "score": score, "value": summary["scores"][score]} for score in data_set.scores]
    for entry in PUBLISHED:
        found += [
            {
                "table": entry.table,
                "data_set": DATA_SETS[name].title,
                "who": entry.who,
                "scored_on": "hidden test images",
                "score": score,
                "value": value,
                "source": entry.source,
            }
            for (name, score), value in entry.scores.items()
        ]
    return found


def split(summary: Mapping[str, Any]) -> str:
    """What was scored, in words."""
    conventions, cases = summary["conventions"], summary["cases"]
    if not summary["split"]["held_out"]:
        return f"{cases} images of the training set, NOT held out"
    return f"{cases} held-out images of the training set, fold {conventions['fold']} of {conventions['folds']}"


def markdown(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]], compared: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Both tables, where ours come from, and the sources of the others.

    Args:
        summaries: what ``cross_validate`` returned, by data set.
        compared: summaries of the first checkpoints again, evaluated in another precision.
    """
    em = DATA_SETS["isbi2012"]
    lines = ["**Table 1** (ISBI 2012 EM; errors: lower is better)", ""]
    lines += markdown_table(["", *em.scores], _table_rows(summaries, 1, [("isbi2012", score) for score in em.scores]))
    lines += ["", "**Table 2** (Cell Tracking Challenge; SEG, higher is better)", ""]
    cells = [name for name in DATA_SETS if DATA_SETS[name].table == 2]
    lines += markdown_table(
        ["", *(DATA_SETS[name].title for name in cells)],
        _table_rows(summaries, 2, [(name, "SEG") for name in cells]),
    )
    lines += ["", "**Ours**", ""]
    ours = []
    for name, data_set in DATA_SETS.items():
        if name not in summaries:
            ours.append([data_set.title, "no checkpoint given", "", "", ""])
            continue
        for summary in summaries[name]:
            listed = ", ".join(f"{score} {_number(summary['scores'][score])}" for score in data_set.scores)
            sha256 = f"`{summary['checkpoint']['sha256'][:12]}`"
            recipe = f"{summary['conventions']['recipe']}, features {summary['conventions']['features']}"
            ours.append([data_set.title, split(summary), recipe, sha256, listed])
    lines += markdown_table(["data set", "scored on", "recipe", "checkpoint (sha256)", "scores"], ours)
    lines += _comparison(summaries, compared) if compared else []
    sources = dict.fromkeys(f"{entry.who}: {entry.source}" for entry in PUBLISHED)
    lines += [
        "",
        "All others were scored on hidden test images, so the rows are not of one kind. The published Rand errors",
        "stand where they most likely belong, with that of the pixels in cells; rand_error counts every pixel, as the",
        "challenge's metric classes do (bundle/docs/metrics.md). Sources:",
        "",
    ]
    return "\n".join(lines + [f"- {source}" for source in sources]) + "\n"


def _comparison(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]], compared: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    body = []
    for name, other in compared.items():
        pair = (summaries[name][0], other)
        precisions = [summary["conventions"]["precision"] for summary in pair]
        for score in DATA_SETS[name].scores:
            values = [summary["scores"][score] for summary in pair]
            body.append([DATA_SETS[name].title, score, *map(_number, values), f"{values[1] - values[0]:+.6f}"])
    return [
        "",
        f"**The same checkpoint of fold 0 in {precisions[1]}**",
        "",
        *markdown_table(["data set", "score", *precisions, "difference"], body),
    ]


def _table_rows(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]], table: int, columns: Sequence[tuple[str, str]]
) -> list[list[str]]:
    held_out = all(summary["split"]["held_out"] for name, _ in columns for summary in summaries.get(name, ()))
    ours = ["ours (held-out part of the training set)" if held_out else "ours (see the split below)"]
    for name, score in columns:
        ours.append(mean_and_spread(summaries[name], score) if name in summaries else "no checkpoint given")
    others = [
        [entry.who, *(_published(entry.scores[column]) if column in entry.scores else "-" for column in columns)]
        for entry in PUBLISHED
        if entry.table == table
    ]
    return [ours, *others]


def mean_and_spread(summaries: Sequence[Mapping[str, Any]], score: str) -> str:
    """Mean of a score over the folds, and with several folds its standard deviation."""
    values = [summary["scores"][score] for summary in summaries]
    mean = _number(statistics.mean(values))
    return f"{mean} ± {_number(statistics.stdev(values))}" if len(values) > 1 else mean


def _number(value: float) -> str:
    return f"{value:.6f}" if 0 < value < 0.001 else f"{value:.4f}"


def _published(value: float) -> str:
    """With the digits that were published."""
    return f"{value:.6f}".rstrip("0")


def figure(summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """One panel a score of the paper's tables: ours as a bar, the others as bars beside it."""
    panels = [
        (name, score)
        for name, data_set in DATA_SETS.items()
        for score in (data_set.scores if data_set.table == 1 else ("SEG",))
    ]
    picture = Figure(figsize=(3.4 * 4, 5.6), layout="constrained")
    for position, (name, score) in enumerate(panels, start=1):
        axes = picture.add_subplot(2, 4, position)
        bars = {"ours": mean_and_spread(summaries[name], score)} if name in summaries else {"ours: no checkpoint": ""}
        bars |= {
            entry.who: _published(entry.scores[name, score]) for entry in PUBLISHED if (name, score) in entry.scores
        }
        lengths = [float(value.split()[0] if value else 0) for value in bars.values()]
        axes.barh(list(bars), lengths, color=["tab:red"] + ["tab:gray"] * (len(bars) - 1))
        axes.invert_yaxis()
        for place, (value, length) in enumerate(zip(bars.values(), lengths, strict=True)):
            axes.annotate(f" {value}", (length, place), va="center", fontsize=7)
        axes.set_xlim(0, 1.35 * max(lengths))
        axes.locator_params(axis="x", nbins=4)
        better = "lower" if score in LOWER_IS_BETTER else "higher"
        axes.set_title(f"{DATA_SETS[name].title}: {score} ({better} is better)", fontsize=8)
        axes.tick_params(labelsize=7)
    return picture


def _settings(words: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """``--name value`` pairs as MONAI's command line takes them."""
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        parser.error(f"{' '.join(words)}: settings of the bundle are given as --name value")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, write the tables and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the challenges' folders (data)")
    for name, data_set in DATA_SETS.items():
        parser.add_argument(f"--{name}", type=Path, nargs="+", metavar="CKPT", help=f"of {data_set.title}")
    parser.add_argument("--recipe", default="paper", choices=("paper", "best"), help="that trained them (paper)")
    parser.add_argument("--compare_precision", choices=("bfloat16",), help="evaluate fold 0 in this one as well")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/tables"), help="where to write (runs/tables)")
    parser.add_argument("--readme", type=Path, help="file in which to replace the block named results")
    parser.add_argument(
        "--features", help="channels of each level, e.g. '[64, 128]'; those of the checkpoint if left out"
    )
    given, words = parser.parse_known_args(arguments)
    settings = _settings(words, parser)
    if given.features is not None:
        settings["features"] = yaml.safe_load(given.features)
    weights = {name: getattr(given, name) for name in DATA_SETS if getattr(given, name) is not None}
    for path in (path for paths in weights.values() for path in paths):
        checkpoint.read_weights(path)  # complains before hours of work
    summaries = {
        name: cross_validate(name, given.data, paths, given.output_dir, given.recipe, settings)
        for name, paths in weights.items()
    }
    compared = {}
    if given.compare_precision is not None:
        other = {**settings, "precision": given.compare_precision}
        folder = given.output_dir / given.compare_precision
        compared = {
            name: evaluate(name, given.data, paths[0], folder, given.recipe, other) for name, paths in weights.items()
        }
    text = markdown(summaries, compared)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    (given.output_dir / "results.md").write_text(text)
    logbook.write_table(rows(summaries), given.output_dir / "results.csv")
    figures.save_figure(figure(summaries), given.output_dir / "results.png")
    if given.readme is not None:
        replace_block(given.readme, text, "results")
    print(text)


if __name__ == "__main__":
    main()

"""Reproduces Tables 1 and 2 of the paper: evaluates our checkpoints, and puts their scores beside those of others.

    python scripts/reproduce_tables.py --data data --isbi2012 runs/isbi2012/model.pt --phc_u373 runs/phc_u373/model.pt

Several checkpoints of a data set, ``--isbi2012 A.pt B.pt``, are a cross-validation: the first was trained without
fold 0, the second without fold 1, and so on; the tables give mean and standard deviation over the folds. With
``--compare_precision bfloat16`` the first of each is evaluated in that precision too, with ``--robustness`` also on
changed images. The data folder holds the
challenges' own folders isbi2012, PhC-C2DH-U373 and DIC-C2DH-HeLa. Written to the output folder: results.md,
results.csv, results.png, and a full evaluation of every checkpoint. Every other --name value is a setting of the
bundle's evaluate.yaml, for instance --symmetries all, --folds 5 or --device cuda:0.

``--readme FILE`` replaces the tables in a file; with ``--keep`` its rows of folds that are not evaluated now, because
their checkpoints are gone, stay: they count in the means, and those that an earlier version of the metrics scored are
marked. Its comparison of precisions stays too where none is made now. ``--releases`` writes the scores of released
weights into bundle/releases.yaml.
"""

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import monai.bundle
import yaml
from matplotlib.figure import Figure

from unet_paper.metrics.em_inputs import RULES
from unet_paper.release import archive
from unet_paper.running import checkpoint, figures, logbook
from unet_paper.running.placement import placed
from unet_paper.running.tables import markdown_table, replace_block

CONFIGS = Path(__file__).resolve().parent.parent / "bundle" / "configs"
PAPER = "Ronneberger et al. 2015, arXiv:1505.04597"


class DataSet(NamedTuple):
    """One column, or block of columns, of the paper's tables."""

    title: str
    folder: str
    table: int
    scores: tuple[str, ...]
    metric_rules: int = 1
    """Version of the rules of these scores; a row of an older one is marked."""
    released: tuple[str, ...] = ()
    """Scores that a release names, where not all."""
    changed: tuple[str, ...] = ("SEG", "DET", "SEG_touching", "SEG_separate")
    """Scores of changed images."""


class Scored(NamedTuple):
    """One row of ours: an evaluation, or what is kept of one."""

    scored_on: str
    recipe: str
    sha256: str
    scores: Mapping[str, float]
    metric_rules: int
    held_out: bool = True
    listed: str = ""
    """The scores as they stood in the file, of a row that is kept."""


class Published(NamedTuple):
    """Scores that others published, on the hidden test images of the challenge."""

    who: str
    table: int
    scores: Mapping[tuple[str, str], float]
    source: str


# the first five are published; Rand errors most likely those of the pixels in cells, see bundle/docs/metrics.md
EM_SCORES = ("warping_error", "rand_error_cells", "pixel_error", "V_rand", "V_info", "rand_error")
EM_RELEASED = ("V_rand", "V_info", "rand_error_cells", "warping_error", "pixel_error")
DATA_SETS = {
    "isbi2012": DataSet(
        "ISBI 2012",
        "isbi2012",
        1,
        EM_SCORES,
        metric_rules=RULES,
        released=EM_RELEASED,
        changed=("V_rand", "V_info", "pixel_error"),
    ),
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
    Published(
        "earlier best, leaderboard", 1, {("isbi2012", "V_rand"): 0.98680, ("isbi2012", "V_info"): 0.99144}, LEADERBOARD
    ),
    Published(
        "best known (mutex watershed)",
        1,
        {},
        "Wolf et al. 2020, arXiv:1904.12654: affinities of a network, cut by the mutex watershed; by its abstract "
        "the best results then known for this challenge; it gives no number",
    ),
    Published("U-Net, the paper", 2, _cells(0.9203, 0.7756), f"{PAPER}, Table 2"),
    Published("second best of 2015", 2, _cells(0.83, 0.46), f"{PAPER}, Table 2"),
    Published("best since (CALT-US)", 2, _cells(0.931, 0.887), "Cell Tracking Challenge, celltrackingchallenge.net"),
)
_EARLIER = " (of an earlier run, with the metrics and the weights of then)"
LOWER_IS_BETTER = ("warping_error", "rand_error_cells", "pixel_error", "rand_error")


def features(weights: str | Path) -> list[int]:
    """Channels of each level of the network that a checkpoint belongs to."""
    state = checkpoint.read_weights(weights)
    names = (f"contracting.{level}.0.weight" for level in range(len(state)))
    return [int(state[name].shape[0]) for name in names if name in state]


def evaluate(
    name: str,
    data: Path,
    weights: Path,
    output_dir: Path,
    recipe: str,
    settings: Mapping[str, Any],
    report: str = "evaluation/summary.json",
) -> dict[str, Any]:
    """Run the bundle's evaluating workflow for one data set.

    Args:
        name: key of ``DATA_SETS``.
        data: folder that holds the data set's folder.
        weights: checkpoint.
        output_dir: the evaluation goes to ``output_dir/name/evaluation``.
        recipe: that the checkpoint was trained with, ``paper`` or ``best``.
        settings: further settings of the config.
        report: what to return of it, ``robustness/robustness.json`` for scores of changed images.

    Returns:
        The summary that the evaluation wrote.
    """
    run = output_dir / name
    best = [f"best_{name}"] if recipe == "best" else []
    changed = ["robustness"] if report.startswith("robustness") else []
    configs = ("train", f"data_{name}", *best, "evaluate", *changed)
    monai.bundle.run(
        run_id="evaluating",
        config_file=[str(CONFIGS / f"{config}.yaml") for config in configs],
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
    summary: dict[str, Any] = json.loads((run / report).read_text())
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


def scored(summary: Mapping[str, Any], data_set: DataSet) -> Scored:
    """What the tables take of a summary that an evaluation wrote."""
    conventions = summary["conventions"]
    return Scored(
        split(summary),
        f"{conventions['recipe']}, features {conventions['features']}",
        summary["checkpoint"]["sha256"],
        {score: summary["scores"][score] for score in data_set.scores},
        data_set.metric_rules,
        summary["split"]["held_out"],
    )


def kept(text: str, evaluated: Mapping[str, Sequence[Scored]]) -> dict[str, list[Scored]]:
    """Rows of the table "Ours" in a text of folds that are not among the evaluated ones, by data set.

    Args:
        text: of the file that holds the tables.
        evaluated: rows of now, by data set.

    Raises:
        ValueError: a row that holds other scores than its data set has.
    """
    names = {data_set.title: name for name, data_set in DATA_SETS.items()}
    found: dict[str, list[Scored]] = {}
    for line in text.partition("**Ours**")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) < 5 or cells[0] not in names or not cells[3].startswith("`"):
            continue
        name = names[cells[0]]
        if any(row.scored_on == cells[1] for row in evaluated.get(name, ())):
            continue
        scores = {score: float(value) for score, value in (pair.split() for pair in cells[4].split(", "))}
        if tuple(scores) != DATA_SETS[name].scores:
            raise ValueError(f"{line}: holds the scores {', '.join(scores)}, not those of {cells[0]}; leave out --keep")
        # the first tables had no column of the rules
        rules = int(cells[5].split()[0]) if len(cells) > 5 else 1
        held_out = "NOT held out" not in cells[1]
        found.setdefault(name, []).append(
            Scored(cells[1], cells[2], cells[3].strip("`"), scores, rules, held_out, cells[4])
        )
    return found


def kept_comparison(text: str) -> str:
    """The comparison of precisions that stands in a text, saying that it is of an earlier run; empty without one."""
    title, _, rest = text.partition("**The same checkpoint of fold 0 in ")[2].partition("**\n")
    if not rest:
        return ""
    table = rest.strip().partition("\n\n")[0]
    return f"**The same checkpoint of fold 0 in {title.removesuffix(_EARLIER)}{_EARLIER}**\n\n{table}"


def rows(ours: Mapping[str, Sequence[Scored]]) -> list[dict[str, Any]]:
    """Every score of ours, by fold, and of others, one row each; a data set without a summary has a row that says so.

    Args:
        ours: rows of ours, by data set.
    """
    found: list[dict[str, Any]] = []
    for name, data_set in DATA_SETS.items():
        common = {"table": data_set.table, "data_set": data_set.title, "who": "ours"}
        if name not in ours:
            found.append({**common, "scored_on": "no checkpoint given"})
        for row in ours.get(name, ()):
            described = {
                **common,
                "scored_on": row.scored_on,
                "recipe": row.recipe.split(",")[0],
                "checkpoint_sha256": row.sha256,
                "metric_rules": row.metric_rules,
            }
            found += [{**described, "score": score, "value": value} for score, value in row.scores.items()]
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
    ours: Mapping[str, Sequence[Scored]],
    compared: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    earlier_comparison: str = "",
    robust: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Both tables, where ours come from, and the sources of the others.

    Args:
        ours: rows of ours, by data set.
        compared: two summaries of the first checkpoint, in one precision and in another, by data set.
        earlier_comparison: what ``kept_comparison`` found, for a run that compares nothing.
        robust: scores of changed images of the first checkpoint, by data set.
    """
    em = DATA_SETS["isbi2012"]
    lines = ["**Table 1** (ISBI 2012 EM; errors: lower is better)", ""]
    lines += markdown_table(["", *em.scores], _table_rows(ours, 1, [("isbi2012", score) for score in em.scores]))
    lines += ["", "**Table 2** (Cell Tracking Challenge; SEG, higher is better)", ""]
    cells = [name for name in DATA_SETS if DATA_SETS[name].table == 2]
    lines += markdown_table(
        ["", *(DATA_SETS[name].title for name in cells)],
        _table_rows(ours, 2, [(name, "SEG") for name in cells]),
    )
    lines += ["", "**Ours**", ""]
    body = []
    for name, data_set in DATA_SETS.items():
        if name not in ours:
            body.append([data_set.title, "no checkpoint given", "", "", "", ""])
        for row in ours.get(name, ()):
            listed = row.listed or ", ".join(f"{score} {_number(value)}" for score, value in row.scores.items())
            rules = f"{row.metric_rules}{' (earlier metric code)' if _is_earlier(name, row) else ''}"
            body.append([data_set.title, row.scored_on, row.recipe, f"`{row.sha256[:12]}`", listed, rules])
    lines += markdown_table(["data set", "scored on", "recipe", "checkpoint (sha256)", "scores", "metric rules"], body)
    if any(_is_earlier(name, row) for name, of_name in ours.items() for row in of_name):
        lines += [
            "",
            "Rows of the earlier metric code are kept because their checkpoints are gone: their scores are near those",
            "of the challenge's classes, not equal, and are of predictions averaged over 8 symmetries. They count in",
            "the means that have a star.",
        ]
    lines += _comparison(compared) if compared else []
    lines += ["", earlier_comparison] if earlier_comparison and not compared else []
    lines += _on_another_day(robust) if robust else []
    sources = dict.fromkeys(f"{entry.who}: {entry.source}" for entry in PUBLISHED)
    lines += [
        "",
        "Ours are scored with the settings that the weights carry, as predictions are made by default. All others were",
        "scored on hidden test images, so the rows are not of one kind. The published Rand errors",
        "stand where they most likely belong, with that of the pixels in cells; rand_error counts every pixel, as the",
        "challenge's metric classes do (bundle/docs/metrics.md). Sources:",
        "",
    ]
    return "\n".join(lines + [f"- {source}" for source in sources]) + "\n"


def _is_earlier(name: str, row: Scored) -> bool:
    return row.metric_rules < DATA_SETS[name].metric_rules


def _comparison(compared: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    body = []
    for name, pair in compared.items():
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


def _on_another_day(robust: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table for each data set: scores of its images as they are, and under every change."""
    lines = [
        "",
        "**On another day** (the first checkpoint of each; held-out images changed, see bundle/docs/metrics.md)",
    ]
    for name, summary in robust.items():
        chosen = DATA_SETS[name].changed
        body = [[images, *(_or_dash(row[score]) for score in chosen)] for images, row in summary["scores"].items()]
        lines += ["", *markdown_table([DATA_SETS[name].title, *chosen], body)]
    return lines


def _or_dash(value: float | None) -> str:
    return "-" if value is None else _number(value)


def _table_rows(
    ours: Mapping[str, Sequence[Scored]], table: int, columns: Sequence[tuple[str, str]]
) -> list[list[str]]:
    held_out = all(row.held_out for name, _ in columns for row in ours.get(name, ()))
    first = ["ours (held-out part of the training set)" if held_out else "ours (see the split below)"]
    for name, score in columns:
        star = "*" if any(_is_earlier(name, row) for row in ours.get(name, ())) else ""
        first.append(mean_and_spread(ours[name], score) + star if name in ours else "no checkpoint given")
    others = [
        [entry.who, *(_published(entry.scores[column]) if column in entry.scores else "-" for column in columns)]
        for entry in PUBLISHED
        if entry.table == table
    ]
    return [first, *others]


def mean_and_spread(folds: Sequence[Scored], score: str) -> str:
    """Mean of a score over the folds, and with several folds its standard deviation."""
    values = [row.scores[score] for row in folds]
    mean = statistics.mean(values)
    spread = f" ± {statistics.stdev(values):.{_digits(mean)}f}" if len(values) > 1 else ""
    return _number(mean) + spread


def _number(value: float) -> str:
    return f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    """Decimals of a score; of warping errors, which are small, six."""
    return 6 if 0 < value < 0.01 else 4


def _published(value: float) -> str:
    """With the digits that were published."""
    return f"{value:.6f}".rstrip("0")


def figure(ours: Mapping[str, Sequence[Scored]]) -> Figure:
    """One panel a score of the paper's tables: ours as a bar, the others as bars beside it."""
    panels = [
        (name, score)
        for name, data_set in DATA_SETS.items()
        for score in (data_set.scores if data_set.table == 1 else ("SEG",))
    ]
    picture = Figure(figsize=(3.4 * 4, 5.6), layout="constrained")
    for position, (name, score) in enumerate(panels, start=1):
        axes = picture.add_subplot(2, 4, position)
        bars = {"ours": mean_and_spread(ours[name], score)} if name in ours else {"ours: no checkpoint": ""}
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


def write_releases(ours: Mapping[str, Sequence[Scored]], bundle: Path) -> None:
    """Write the scores of the bundle's released weights into ``releases.yaml``, each in the line that it has there.

    Args:
        ours: rows of ours, by data set; those of other weights are passed over.
        bundle: folder of ``releases.yaml``.

    Raises:
        ValueError: a release without a line for its scores.
    """
    file = bundle / "releases.yaml"
    text = file.read_text()
    by_weights = {row.sha256: (name, row) for name, of_name in ours.items() for row in of_name}
    for title, release in archive.releases(bundle).items():
        weights = bundle / release.weights
        if not weights.is_file() or checkpoint.sha256(weights) not in by_weights:
            continue
        name, row = by_weights[checkpoint.sha256(weights)]
        chosen = DATA_SETS[name].released or DATA_SETS[name].scores
        listed = ", ".join(f"{score}: {float(_number(row.scores[score]))!r}" for score in chosen)
        text, replaced = re.subn(
            rf"(?ms)^({title}:.*?^    eval_metrics: )\{{[^}}\n]*\}}$", rf"\g<1>{{{listed}}}", text, count=1
        )
        if not replaced:
            raise ValueError(f"{file}: {title} has no line of its own for eval_metrics")
    with placed(file) as part:
        part.write_text(text)


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
    parser.add_argument("--robustness", action="store_true", help="score fold 0 on changed images as well")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/tables"), help="where to write (runs/tables)")
    parser.add_argument("--readme", type=Path, help="file in which to replace the block named results")
    parser.add_argument("--keep", action="store_true", help="keep that file's rows of folds that are not evaluated now")
    parser.add_argument(
        "--features", help="channels of each level, e.g. '[64, 128]'; those of the checkpoint if left out"
    )
    parser.add_argument("--releases", action="store_true", help="write scores of released weights to releases.yaml")
    given, words = parser.parse_known_args(arguments)
    if given.keep and given.readme is None:
        parser.error("--keep: keeps rows of a file; name it with --readme")
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
            name: (summaries[name][0], evaluate(name, given.data, paths[0], folder, given.recipe, other))
            for name, paths in weights.items()
        }
    robust = {}
    if given.robustness:
        # averaging over symmetries would take eight times as long for each change
        plain = {**settings, "symmetries": "none"}
        report = "robustness/robustness.json"
        robust = {
            name: evaluate(name, given.data, paths[0], given.output_dir, given.recipe, plain, report)
            for name, paths in weights.items()
        }
    evaluated = {name: [scored(summary, DATA_SETS[name]) for summary in of_name] for name, of_name in summaries.items()}
    remaining = kept(given.readme.read_text(), evaluated) if given.keep else {}
    ours = {
        name: [*evaluated.get(name, ()), *remaining.get(name, ())]
        for name in DATA_SETS
        if name in evaluated or name in remaining
    }
    text = markdown(ours, compared, kept_comparison(given.readme.read_text()) if given.keep else "", robust)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    (given.output_dir / "results.md").write_text(text)
    logbook.write_table(rows(ours), given.output_dir / "results.csv")
    figures.save_figure(figure(ours), given.output_dir / "results.png")
    if given.readme is not None:
        replace_block(given.readme, text, "results")
    if given.releases:
        write_releases(evaluated, CONFIGS.parent)
    print(text)


if __name__ == "__main__":
    main()

"""Trains nnU-Net's 2D configuration and recipe `best` for the same CPU time on the same images, and scores both alike.

    python -m venv nnunet && nnunet/bin/pip install -e . nnunetv2
    OMP_NUM_THREADS=1 nnunet/bin/python scripts/compare_nnunet.py isbi2012 --data FOLDER --doc bundle/docs/choices.md

nnU-Net needs an environment of its own: it brings another PyTorch. First ours is trained for ``--epochs`` epochs of 100
steps; then nnU-Net, as it plans itself, for as many CPU seconds, its learning rate falling to zero over them as it does
over its thousand epochs. Both see the images of one fold's training part, from chance, and are scored on the held-out
ones by the same evaluator, each with the test-time averaging that it has by default. CPU seconds are those of all
processes and threads, augmentation included. What has been trained is kept in ``--output_dir``.
"""

import argparse
import importlib.util
import json
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import tifffile
import torch
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import Tensor, nn

from unet_paper.running import checkpoint
from unet_paper.running.tables import markdown_table, replace_block

CONFIGS = Path(__file__).resolve().parent.parent / "bundle" / "configs"
NAME = "Dataset001_peer"
IGNORED = 2
FOLDERS = {"isbi2012": "isbi2012", "phc_u373": "PhC-C2DH-U373", "dic_hela": "DIC-C2DH-HeLa"}
SCORES = {
    "isbi2012": ["V_rand", "V_info", "pixel_error", "warping_error"],
    "phc_u373": ["SEG", "DET", "IoU", "pixel_error"],
    "dic_hela": ["SEG", "DET", "IoU", "pixel_error"],
}
OURS = {"features": [16, 32, 64, 128, 256], "dropout": 0.0, "tile_size": 380, "steps_per_epoch": 100}


def configs(data_set: str, *further: str) -> list[str]:
    """Files of the bundle's training of recipe `best`, and of overlays."""
    return [str(CONFIGS / f"{name}.yaml") for name in ("train", f"data_{data_set}", f"best_{data_set}", *further)]


def score_ours(data_set: str, settings: Mapping[str, Any], used: Path) -> dict[str, float]:
    """Scores of recipe `best`, trained from chance; what the training took goes into ``used``."""
    folder, epochs = Path(settings["output_dir"]), settings["max_epochs"]
    if not used.is_file():
        begun = _cpu_seconds()
        monai.bundle.run("training", config_file=configs(data_set), **settings, **OURS, val_interval=epochs)
        took = {
            "steps": epochs * OURS["steps_per_epoch"],
            "cpu_seconds": _cpu_seconds() - begun,
            "parameters": sum(tensor.numel() for tensor in checkpoint.read_weights(folder / "model.pt").values()),
            "batch_size": 1,
            "tile_size": OURS["tile_size"],
        }
        used.write_text(json.dumps(took))
    monai.bundle.run("evaluating", config_file=configs(data_set, "evaluate"), **settings)
    found: dict[str, float] = json.loads((folder / "evaluation" / "summary.json").read_text())["scores"]
    return found


def write_images(parser: monai.bundle.ConfigParser, root: Path) -> None:
    """Images and masks of both parts as nnU-Net wants them, with what is unknown as its `ignore`."""
    load = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    folder = root / "raw" / NAME
    names: dict[str, list[str]] = {}
    unknown = False
    for part, cases in (("train", "training_cases"), ("val", "validation_cases")):
        for index, case in enumerate(parser.get_parsed_content(cases)):
            item = load(dict(case))
            name = f"{part}{index:03d}"
            label = np.asarray(item["label"])[0]
            classes = np.select([label > 0, label < 0], [1, IGNORED], 0).astype(np.uint8)
            unknown = unknown or IGNORED in classes
            image = np.round(np.asarray(item["image"])[0] * 65535).astype(np.uint16)
            for kind, file, array in (("imagesTr", f"{name}_0000", image), ("labelsTr", name, classes)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / kind / f"{file}.tif", array)
            names.setdefault(part, []).append(name)
    described = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "cell": 1} | ({"ignore": IGNORED} if unknown else {}),
        "numTraining": sum(map(len, names.values())),
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    split = root / "preprocessed" / NAME / "splits_final.json"
    split.parent.mkdir(parents=True, exist_ok=True)
    split.write_text(json.dumps([names]))


def train_nnunet(root: Path, cpu_seconds: float) -> None:
    """Plan and train nnU-Net for so many CPU seconds of this process, preprocessing aside."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.run.run_training import get_trainer_from_args

    threads = torch.get_num_threads()
    planning.extract_fingerprints([1], num_processes=1)
    planning.plan_experiments([1])
    planning.preprocess([1], configurations=("2d",), num_processes=(1,))
    torch.set_num_threads(threads)  # planning sets its own
    set_determinism(0)
    os.environ.update({"nnUNet_n_proc_DA": "0"})  # augmentation in the process whose time counts
    trainer = get_trainer_from_args(NAME, "2d", 0, device=torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    begun, steps, done = _cpu_seconds(), 0, 0.0
    while done < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - done) ** 0.9  # its own schedule, over the time that there is
        loss = float(trainer.train_step(next(trainer.dataloader_train))["loss"])
        steps += 1
        done = (_cpu_seconds() - begun) / cpu_seconds
        if steps % 10 == 1:
            print(f"nnU-Net: step {steps}, loss {loss:.4f}, {done:.0%} of the time", flush=True)
    trainer.save_checkpoint(str(root / "checkpoint_final.pth"))
    took = {
        "steps": steps,
        "cpu_seconds": _cpu_seconds() - begun,
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "batch_size": trainer.batch_size,
        "tile_size": trainer.configuration_manager.patch_size[0],
    }
    (root / "nnunet.json").write_text(json.dumps(took))


class NnUNet(nn.Module):
    """nnU-Net as a network of the evaluator: image (1, 1, H, W) of any grey values to logits (1, 2, H, W)."""

    def __init__(self, root: Path) -> None:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.run.run_training import get_trainer_from_args

        super().__init__()
        trainer = get_trainer_from_args(NAME, "2d", 0, device=torch.device("cpu"))
        trainer.initialize()
        trainer.load_checkpoint(str(root / "checkpoint_final.pth"))
        trainer.set_deep_supervision_enabled(False)
        self.predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        self.predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            "nnUNetTrainer",
            trainer.inference_allowed_mirroring_axes,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, averaged over mirrored images as by default."""
        # its normalisation, to mean 0 and standard deviation 1 of each image, undoes any before
        image = (images - images.mean()) / images.std()
        return torch.as_tensor(self.predictor.predict_sliding_window_return_logits(image)[None, :, 0]).float()


def score_nnunet(parser: monai.bundle.ConfigParser, root: Path) -> dict[str, float]:
    """Scores of nnU-Net on the held-out images, by the evaluator of ours."""
    parser.update(
        {"quick_validation": False, "validate#handlers": [], "validate#inferer": {"_target_": "SimpleInferer"}}
    )
    parser.parse()
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.network = NnUNet(root)
    evaluator.run()
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


def _cpu_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and score both, or what is left of it, and write their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=FOLDERS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the challenges' folders (data)")
    parser.add_argument("--fold", type=int, default=0, help="which to hold out (0)")
    parser.add_argument("--epochs", type=int, default=20, help="of 100 steps, of ours (20)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/nnunet"), help="where to write (runs/nnunet)")
    parser.add_argument("--doc", type=Path, help="file in which to replace the table")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("nnunetv2") is None:  # before ours has trained for as long
        parser.error("nnunetv2 is not installed here; --help begins with the lines that make an environment with it")
    root = (given.output_dir / given.data_set).resolve()
    for folder in ("raw", "preprocessed", "results"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        os.environ.update({f"nnUNet_{folder}": str(root / folder)})
    threads = torch.get_num_threads()
    shared = {"dataset_dir": str((given.data / FOLDERS[given.data_set]).resolve()), "fold": given.fold}
    ours = shared | {"output_dir": str(root / "ours"), "max_epochs": given.epochs, "threads": threads, "device": "cpu"}
    found = {"ours": score_ours(given.data_set, ours, root / "ours.json")}
    bundle = monai.bundle.ConfigParser()
    bundle.read_config(configs(given.data_set))
    bundle.update(shared)
    bundle.parse()
    if not (root / "nnunet.json").is_file():
        write_images(bundle, root)
        seconds = json.loads((root / "ours.json").read_text())["cpu_seconds"]
        train_nnunet(root, seconds)
    found["nnunet"] = score_nnunet(bundle, root)
    text = table(given.data_set, given.fold, found, root)
    (root / "results.md").write_text(text)
    if given.doc is not None:
        replace_block(given.doc, text, f"nnunet_{given.data_set}")
    print(text)


def table(data_set: str, fold: int, found: Mapping[str, Mapping[str, float]], root: Path) -> str:
    """Markdown table of what both used and what they gave."""
    body = []
    for name, title in (("ours", "recipe `best`, 16 to 256 features"), ("nnunet", "nnU-Net 2D")):
        used = json.loads((root / f"{name}.json").read_text())
        facts = [f"{used['parameters'] / 1e6:.1f}", str(used["tile_size"]), str(used["batch_size"]), str(used["steps"])]
        values = [f"{found[name][score]:.4f}" for score in SCORES[data_set]]
        body.append([title, *facts, f"{used['cpu_seconds'] / 60:.1f}", *values])
    head = ["", "parameters, million", "tile, px", "batch", "steps", "CPU minutes", *SCORES[data_set]]
    title = f"**{FOLDERS[data_set]}, both trained for the same CPU time**"
    return (
        "\n".join([title, "", *markdown_table(head, body), "", f"From chance; scored on fold {fold}, held out."]) + "\n"
    )


if __name__ == "__main__":
    main()

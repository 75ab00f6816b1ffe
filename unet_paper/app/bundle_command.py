"""The command of MONAI that a command of ours stands for: what is printed is what is run."""

import os
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_paper.running.bundle_folder import bundle_folder

# What MONAI takes for an expression, a reference or a macro where a value begins with it, and a shell's tools for an
# option.
_NOT_A_PATH = ("$", "@", "%", "-")
# what MONAI's run is given besides a workflow's settings
_OF_A_RUN = ("args_file", "tracking", "init_id", "final_id")


@dataclass(frozen=True)
class BundleCommand:
    """``python -m monai.bundle run RUN_ID --config_file [...] --NAME VALUE ...``.

    Attributes:
        run_id: what to run of the configs: ``training``, ``evaluating``, ``run``.
        configs: names in the bundle's ``configs`` folder without ``.yaml``, or paths of files; each lies over those
            before it.
        settings: values as one types them.
    """

    run_id: str
    configs: Sequence[str | Path]
    settings: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """What follows ``python -m monai.bundle``."""
        files = [_shortest(config_path(config)) for config in self.configs]
        listed = files[0] if len(files) == 1 else "[" + ",".join(f"'{file}'" for file in files) + "]"
        given = [text for name, value in self.settings.items() for text in (f"--{name}", value)]
        return ["run", self.run_id, "--config_file", listed, *given]

    def line(self) -> str:
        """The command as one types it into a shell.

        >>> BundleCommand("training", [], {"max_epochs": "4", "features": "[8, 16]"}).line()
        'python -m monai.bundle run training --config_file "[]" --max_epochs 4 --features "[8, 16]"'
        """
        return " ".join(["python", "-m", "monai.bundle", *map(quoted, self.arguments())])

    def workflow(self, **settings: Any) -> Any:
        """MONAI's workflow of a training that :meth:`run` would run, initialised; for whoever wants parts of it.

        Args:
            settings: that come before those typed; values, not text.

        Raises:
            Exception: whatever its initialisation raises, such as for a setting that there is not.
        """
        from fire.parser import DefaultParseValue  # not at the top: help needs neither
        from monai.bundle import ConfigWorkflow

        values = {name: DefaultParseValue(text) for name, text in self.settings.items() if name not in _OF_A_RUN}
        workflow = ConfigWorkflow(
            config_file=[str(config_path(config)) for config in self.configs],
            run_id=self.run_id,
            workflow_type="train",
            **{**values, **settings},
        )
        with self._as_arguments():
            workflow.initialize()
        return workflow

    def run(self) -> None:
        """Run it in this process, as ``python -m monai.bundle`` would.

        Raises:
            Exception: whatever the run raises.
        """
        with self._as_arguments():
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)

    @contextmanager
    def _as_arguments(self) -> Iterator[None]:
        given = sys.argv
        sys.argv = ["monai.bundle", *self.arguments()]
        try:
            yield
        finally:
            sys.argv = given


def config_path(config: str | Path) -> Path:
    """File of a config: one of the bundle's by its name, or a path of one's own.

    Raises:
        FileNotFoundError: no such file.
    """
    own = isinstance(config, Path) or config.endswith((".yaml", ".yml", ".json"))
    folder = bundle_folder() / "configs"
    path = Path(config) if own else folder / f"{config}.yaml"
    if not own and not path.is_file() and (folder / f"{config}.json").is_file():
        return folder / f"{config}.json"  # of an archive
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    return path


def path_value(path: str | Path) -> str:
    """A path as the value of a setting, which stays text whatever it looks like: ``2024`` is a folder, not a number.

    >>> path_value("cells"), path_value("2024"), path_value("$new")
    ('cells', '"2024"', './$new')
    """
    from fire.parser import DefaultParseValue  # not at the top: only a run needs it

    text = str(path)
    if text.startswith(_NOT_A_PATH):
        text = f"./{text}"
    return text if DefaultParseValue(text) == text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def quoted(word: str) -> str:
    """A word for a POSIX shell, in double quotes where those do.

    >>> quoted("a.yaml"), quoted("['a','b']"), quoted("$5 'off'")
    ('a.yaml', '"[\\'a\\',\\'b\\']"', '\\'$5 \\'"\\'"\\'off\\'"\\'"\\'\\'')
    """
    plain = shlex.quote(word)
    return f'"{word}"' if plain != word and not set(word) & set('"$`\\!') else plain


def _shortest(path: Path) -> str:
    """A path as one would type it here."""
    path = path.resolve()
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)

"""Code that a bundle's archive carries in its own folder, and that its configs find there wherever they are run from.

MONAI evaluates ``imports`` before anything else, and puts the bundle's folder on ``sys.path`` only when the workflow
runs. So in an archive no import names this package: ``carry`` turns them into components that first put the folder at
the front of ``sys.path``, before an installed version.
"""

import re
from pathlib import Path
from typing import Any

import unet_paper

PACKAGE = unet_paper.__name__
_IMPORT = re.compile(rf"\$import ({PACKAGE}(?:\.\w+)+) as (\w+)")
_GATE = "carried_code"
# A workflow knows the folder of its config; MONAI's checks and exports (a parser alone) hold the file's name.
_FIND_ROOT = (
    "$next((os.path.dirname(os.path.abspath(configs)) for frame in inspect.stack(0) for configs in "
    "[flow.config_root_path for flow in [frame[0].f_locals.get('self')] "
    "if isinstance(flow, monai.bundle.ConfigWorkflow)] "
    "+ [os.path.dirname(os.path.abspath(file)) "
    "for file in monai.utils.ensure_tuple(frame[0].f_locals.get('config_file_', ()))]), os.getcwd())"
)


def carry(config: dict[str, Any]) -> dict[str, Any]:
    """Config that takes this package from the bundle's folder, for a config that takes it from where it is installed.

    Args:
        config: complete content of a config, ``imports`` such as ``$import unet_paper.running.engines as engines``.

    Returns:
        The same workflow. ``bundle_root`` is found from the config's own place unless it is given.

    Raises:
        ValueError: a setting has the name of an imported module.

    >>> config = {"imports": ["$import unet_paper.running.engines as engines"], "device": "$engines.select_device()"}
    >>> carry(config)["device"]
    '$@engines.select_device()'
    """
    modules = _modules(config)
    imports = ["$import os", "$import sys", "$import inspect", "$import monai"]
    imports += [word for word in config.get("imports", []) if not _IMPORT.fullmatch(word) and word not in imports]
    if taken := sorted({*modules, _GATE} & set(config)):
        raise ValueError(f"{taken[0]}: is both a setting and a module of this config; rename the setting")
    names = _uses(modules)
    gate = {
        "_target_": f"{__name__}.check_version",
        "version": unet_paper.__version__,
        "_requires_": "$sys.path.insert(0, os.path.abspath(@bundle_root))",
    }
    components = {
        name: {"_target_": "importlib.import_module", "name": module, "_requires_": f"@{_GATE}"}
        for name, module in modules.items()
    }
    rest = {name: _gated(value, names) for name, value in config.items() if name not in ("imports", "bundle_root")}
    return {"imports": imports, "bundle_root": _FIND_ROOT, _GATE: gate, **components, **rest}


def carry_overlay(overlay: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Overlay for a config that ``carry`` has made, from one for the config as it was.

    Args:
        overlay: content of the overlay, without imports of its own.
        base: complete content of the config under it, before ``carry``.

    Raises:
        ValueError: the overlay imports something.

    >>> base = {"imports": ["$import unet_paper.running.engines as engines"]}
    >>> carry_overlay({"secondary": "$engines.is_secondary()"}, base)
    {'secondary': '$@engines.is_secondary()'}
    """
    if "imports" in overlay:
        raise ValueError("imports: an overlay has none of its own; import in the config under it")
    names = _uses(_modules(base))
    return {name: _gated(value, names) for name, value in overlay.items()}


def _modules(config: dict[str, Any]) -> dict[str, str]:
    """Modules of this package that a config imports, by the name it gives them."""
    found = (_IMPORT.fullmatch(statement) for statement in config.get("imports", []))
    return {match[2]: match[1] for match in found if match}


def _uses(modules: dict[str, str]) -> re.Pattern[str] | None:
    return re.compile(rf"(?<![\w.@#'\"])({'|'.join(modules)})(?=\.)") if modules else None


def check_version(version: str) -> str:
    """Raise unless this package is of the version that an archive carries.

    Raises:
        RuntimeError: another version was imported earlier in this process.
    """
    if version != unet_paper.__version__:
        raise RuntimeError(
            f"{PACKAGE} {unet_paper.__version__} from {Path(unet_paper.__file__).parent} is in use in this process, "
            f"the bundle carries version {version}: load the bundle in a process of its own"
        )
    return version


def _gated(value: Any, names: re.Pattern[str] | None) -> Any:
    """Expressions with references to the modules; components of this package after the gate."""
    if isinstance(value, str):
        return names.sub(r"@\1", value) if names and value.startswith("$") else value
    if isinstance(value, list):
        return [_gated(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    gated = {key: _gated(item, names) for key, item in value.items()}
    if str(gated.get("_target_", "")).startswith(f"{PACKAGE}."):
        earlier = gated.get("_requires_", [])
        gated["_requires_"] = [f"@{_GATE}", *(earlier if isinstance(earlier, list) else [earlier])]
    return gated

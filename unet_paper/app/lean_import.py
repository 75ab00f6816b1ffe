"""MONAI, imported without what it looks for on the way and our commands never use.

``import monai`` tries a dozen optional packages, whether or not anything will call them: mlflow, scikit-learn, pandas,
pyplot, scipy.signal. Where they are installed they take a third of the time from the command to the first prediction.
"""

import importlib
import os
import sys
from collections.abc import Iterable

# What MONAI takes to be missing; each is imported as ever by whoever asks for it later.
UNUSED = ("mlflow", "sklearn", "pandas", "matplotlib.pyplot", "scipy.signal")
_TRACKING = ("mlflow", "tracking")


def import_monai(asked: Iterable[str] = ()) -> None:
    """Import MONAI as if :func:`unused` packages were not installed; nothing if it has been imported.

    Args:
        asked: words that were typed, and the text of config files of one's own.
    """
    if "monai" in sys.modules:
        return
    hidden = [name for name in unused(asked) if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        importlib.import_module("monai")
    finally:
        for name in hidden:
            if name in sys.modules and sys.modules[name] is None:
                del sys.modules[name]


def unused(asked: Iterable[str]) -> list[str]:
    """What need not be imported: all of :data:`UNUSED`, but MLflow where words or the environment ask for tracking.

    >>> "mlflow" in unused(["--tracking", "mlflow"])
    False
    """
    tracked = any(word in text for text in asked for word in _TRACKING) or "MLFLOW_TRACKING_URI" in os.environ
    return [name for name in UNUSED if not (tracked and name == "mlflow")]

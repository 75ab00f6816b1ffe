"""Where the bundle's configs and weights lie, wherever the package is installed."""

from pathlib import Path

import unet_paper


def bundle_folder() -> Path:
    """Folder with ``configs`` and ``models``: in the package, around it as in an archive, or beside it in a checkout.

    Raises:
        FileNotFoundError: if there is none.
    """
    package = Path(unet_paper.__file__).resolve().parent
    candidates = (package / "bundle", package.parent, package.parent / "bundle")
    for folder in candidates:
        if (folder / "configs" / "metadata.json").is_file():
            return folder
    raise FileNotFoundError(
        f"no folder configs in any of {', '.join(map(str, candidates))}: install the package again, or give MONAI the "
        "configs of a bundle with --config_file"
    )

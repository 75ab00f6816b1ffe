"""``python -m unet_paper``: the command ``unet-paper``."""

import sys

from unet_paper.app.command_line import main

sys.exit(main())

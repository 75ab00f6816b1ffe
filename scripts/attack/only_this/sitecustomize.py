"""Python runs this at its start where this folder is on PYTHONPATH: an older checkout has what it has.

A package that is installed for editing would answer for the modules that the checkout under attack lacks.
"""

import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]

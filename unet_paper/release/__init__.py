"""What leaves the house and how it is found again: archives, the code they carry, the registry, exports, MONAI Label.

It may import everything but ``large`` and ``app``, and may read YAML; nothing below imports it.
"""

"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597): one module for each noun of the paper."""

__version__ = "0.1.0"

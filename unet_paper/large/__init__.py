"""Images larger than memory, or than one machine: the cells of the whole image, found block by block.

What belongs here: the plan of such a run, the stores that images and labels lie in, the work on one block, how blocks
are joined, and who does the work (one process, several, Dask, the parts of a job array). May import everything but
``release`` and ``app``. What happens to one pixel is not done here: the network's tiles come from
:mod:`unet_paper.inferer`, cells from :mod:`unet_paper.instances`, their measurements from
:mod:`unet_paper.measurements`, by the same functions as for small images. Why blocks equal the whole stands in
:mod:`unet_paper.large.block_prediction` and :mod:`unet_paper.large.block_cells`.
"""

try:
    import zarr  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "images in blocks need Zarr: pip install zarr fsspec pyarrow 'dask[distributed]'"
    ) from error

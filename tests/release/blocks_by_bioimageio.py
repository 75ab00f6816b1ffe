"""Predict an image in blocks by bioimageio.core, in the environment that has it: PACKAGE IMAGE.npy SIDE OUTPUT.npy."""

import sys

import numpy as np


def main() -> None:
    """Write the probability that the package gives."""
    from bioimageio.core import Tensor, predict
    from bioimageio.core.axis import AxisId
    from bioimageio.spec.model.v0_5 import TensorId

    package, image, side, output = sys.argv[1:]
    axes = [AxisId(name) for name in ("batch", "channel", "y", "x")]
    # a bare array must have sides that the package names; one with named axes need not
    tensor = Tensor(np.load(image), dims=axes)
    shape = dict(zip(axes, (1, 1, int(side), int(side)), strict=True))
    sample = predict(model=package, inputs={TensorId("image"): tensor}, input_block_shape={TensorId("image"): shape})
    np.save(output, np.asarray(sample.members[TensorId("probability")].data))


if __name__ == "__main__":
    main()

"""Predict an image in blocks by bioimageio.core, in the environment that has it: PACKAGE IMAGE.npy SIDE OUTPUT.npy."""

import sys

import numpy as np
from bioimageio.core import predict
from bioimageio.core.axis import AxisId
from bioimageio.spec.model.v0_5 import TensorId

package, image, side, output = sys.argv[1:]
shape = {AxisId("batch"): 1, AxisId("channel"): 1, AxisId("y"): int(side), AxisId("x"): int(side)}
sample = predict(
    model=package, inputs={TensorId("image"): np.load(image)}, input_block_shape={TensorId("image"): shape}
)
np.save(output, np.asarray(sample.members[TensorId("probability")].data))

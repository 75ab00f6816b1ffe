"""Sizes of valid-padding U-Nets: which tiles fit, what comes out, how much border is lost. Integers only.

With ``levels`` resolution levels there are ``levels - 1`` poolings. Every level spends two 3x3 convolutions, each of
which takes one pixel from every side. A bottleneck of ``b`` pixels (after its convolutions) therefore belongs to

    input_size  = f * (b + 8) - 4        f = 2 ** (levels - 1), the pooling factor
    output_size = f * (b - 4) + 4        so input_size - output_size = 12 f - 8 for every size

which for the paper's five levels reads 16 k + 60 -> input - 184: 572 -> 388, and 188 -> 4 is the smallest.
"""


def pooling_factor(levels: int = 5) -> int:
    """Pixels of the input per pixel of the bottleneck: predictions repeat exactly under shifts of this many pixels.

    >>> pooling_factor()
    16
    """
    if levels < 1:
        raise ValueError(f"levels={levels}: a U-Net has at least 1 level (the paper's has 5)")
    return 1 << (levels - 1)


def margin(levels: int = 5) -> int:
    """Pixels lost at every side between input and output, the reach of the receptive field that tiles must share.

    >>> margin()
    92
    """
    return 6 * pooling_factor(levels) - 4


def skip_crops(levels: int = 5) -> tuple[int, ...]:
    """Pixels cropped from every side of the skip of each level, full resolution first.

    >>> skip_crops()
    (88, 40, 16, 4)
    """
    # One level down costs 2 px per side twice (its two convolutions, in the contracting and in the expanding path) and
    # everything below it counts double: c(i) = 2 c(i + 1) + 8, and 4 at the deepest skip (2 px per side, times 2).
    crops: list[int] = []
    for _ in range(levels - 1):
        crops.insert(0, 2 * crops[0] + 8 if crops else 4)
    return tuple(crops)


def smallest_output_size(levels: int = 5) -> int:
    """Smallest output; all others lie multiples of the pooling factor above it.

    >>> smallest_output_size()
    4
    """
    factor = pooling_factor(levels)
    return 4 if factor >= 4 else 4 - factor * (3 // factor)


def valid_input_sizes(near: int, levels: int = 5) -> tuple[int, int]:
    """The nearest valid input sizes at or below and at or above ``near`` (equal if ``near`` is valid).

    >>> valid_input_sizes(570), valid_input_sizes(572), valid_input_sizes(5)
    ((556, 572), (572, 572), (188, 188))
    """
    factor = pooling_factor(levels)
    smallest = smallest_output_size(levels) + 2 * margin(levels)
    if near <= smallest:
        return smallest, smallest
    below = near - (near - smallest) % factor
    return below, below if below == near else below + factor


def output_size(input_size: int, levels: int = 5) -> int:
    """Output size of the network for one spatial side.

    Args:
        input_size: height or width of the input in px.
        levels: resolution levels, 5 in the paper.

    Raises:
        ValueError: if a feature map would have an odd side before a pooling, or vanish.

    >>> output_size(572)
    388
    """
    below, above = valid_input_sizes(input_size, levels)
    if input_size != below and input_size != above:
        factor = pooling_factor(levels)
        nearest = f"nearest {below} and {above}" if below != above else f"the smallest is {below}"
        raise ValueError(f"input_size={input_size}: valid sizes are {factor}k+{4 * factor - 4}, {nearest}")
    return input_size - 2 * margin(levels)


def input_size(output_size: int, levels: int = 5) -> int:
    """Smallest valid input whose output covers ``output_size`` px.

    >>> input_size(388), input_size(389), input_size(1)
    (572, 588, 188)
    """
    if output_size < 1:
        raise ValueError(f"output_size={output_size}: must be at least 1 px")
    return valid_input_sizes(output_size + 2 * margin(levels), levels)[1]

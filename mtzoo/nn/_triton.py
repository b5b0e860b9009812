"""The kernels of `mtzoo.nn.kernels` themselves; needs Triton."""

import triton
import triton.language as tl


@triton.jit
def doubled(
    x,
    weight,
    bias,
    y,
    rows,
    height,
    width,
    inputs,
    outputs,
    slope,
    columns,
    ieee: tl.constexpr,
    widened: tl.constexpr,
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
):
    # Programs that read the same pixels come one after another: the four places of an output
    # pixel within its square fastest, then channels, then pixels.
    place = tl.program_id(0) % 4
    column = tl.program_id(0) // 4 % columns
    down, right = place // 2, place % 2
    first_row = (tl.program_id(0) // (4 * columns)).to(tl.int64) * block_rows
    row = first_row + tl.arange(0, block_rows)
    at_y, at_x = row // width % height, row % width
    out = column * block_outputs + tl.arange(0, block_outputs)
    total = tl.full((block_rows, block_outputs), 0.0, tl.float32)
    for tap in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
        up, left = tap // 2 + down - 1, tap % 2 + right - 1
        inside = (row < rows) & (at_y + up >= 0) & (at_y + up < height)
        inside = inside & (at_x + left >= 0) & (at_x + left < width)
        pixel = (row + up * width + left) * inputs
        matrix = (place * 4 + tap) * inputs
        for first in range(0, inputs, block_inputs):
            channel = first + tl.arange(0, block_inputs)
            a = tl.load(
                x + pixel[:, None] + channel[None, :],
                mask=inside[:, None] & (channel < inputs)[None, :],
                other=0.0,
            )
            b = tl.load(
                weight + (matrix + channel[:, None]) * outputs + out[None, :],
                mask=(channel < inputs)[:, None] & (out < outputs)[None, :],
                other=0.0,
            )
            if widened:
                a, b = a.to(tl.float32), b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision="ieee" if ieee else "tf32")
    total += tl.load(bias + out, mask=out < outputs, other=0.0)[None, :].to(tl.float32)
    total = tl.where(total < 0, total * slope, total)
    picture = row // (width * height)
    line = (picture * height + at_y) * 2 + down
    target = (line * 2 * width + at_x * 2 + right) * outputs
    tl.store(
        y + target[:, None] + out[None, :],
        total.to(y.dtype.element_ty),
        mask=(row < rows)[:, None] & (out < outputs)[None, :],
    )

"""Device functions that kernels of several families call."""

from __future__ import annotations

from mspipe_triton.kernels.runtime.launch import device_function, tl


@device_function
def add_product(b_sum, b_x, b_w, PRECISION: tl.constexpr):
    """b_sum + x W in the type of b_sum, which triton before 3.8 assumes to be float32 unless `out_dtype` is set."""
    return tl.dot(b_x, b_w, b_sum, input_precision=PRECISION, out_dtype=b_sum.dtype)


@device_function
def real_rows(p_count, rows):
    """The number of real rows: `rows` if there is no count."""
    stop = rows
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
    return stop

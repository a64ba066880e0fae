"""Triton kernels that quantise rows to 8 bits in one pass over them; imported on a GPU only.

A program holds a whole row in registers, so that its largest value, its scale and its 8-bit values
cost one read. What torch.compile makes of the same lines reads a row longer than 1024 twice, and
computes GELU twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _quantise_row(
    source,
    hidden,
    values,
    scales,
    num_columns,
    LARGEST: tl.constexpr,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    place = row * num_columns + column
    x = tl.load(source + place, mask=inside, other=0.0).to(tl.float32)
    if FORM == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if FORM == "gelu_gradient":
        h = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
        normal = 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))
        x = x * (normal + h * 0.3989422804014327 * tl.exp(-0.5 * h * h))
    largest = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12)
    tl.store(scales + row, largest / LARGEST)
    quantised = (x * (LARGEST / largest)).to(values.dtype.element_ty)
    tl.store(values + place, quantised, mask=inside)


def quantise_rows(
    source: Tensor, form: str, dtype: torch.dtype, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    """8-bit values (M, K) and float32 scales (M, 1) of contiguous `source` (M, K), taken plain,
    through GELU, or as the gradient behind the GELU of `hidden` (M, K)."""
    num_rows, num_columns = source.shape
    values = torch.empty_like(source, dtype=dtype)
    scales = torch.empty(num_rows, 1, device=source.device, dtype=torch.float32)
    block = triton.next_power_of_2(num_columns)
    _quantise_row[(num_rows,)](
        source,
        source if hidden is None else hidden,
        values,
        scales,
        num_columns,
        LARGEST=torch.finfo(dtype).max,
        FORM=form,
        BLOCK=block,
        num_warps=4 if block <= 1024 else 8,
    )
    return values, scales

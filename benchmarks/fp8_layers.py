"""Frozen linear layers computed in 8-bit floating point: a prototype, measured by `fp8.py`.

A weight that never changes is quantised once, each output channel with its own scale for the
forward pass, and once more, each input channel with its own, for the backward pass. Activations
and their gradients are quantised row by row as they come. Products are summed up in float32 and
leave in bfloat16. A frozen layer has no gradient of its weight, so nothing is kept of its input.

`swap` puts such layers into a ViT whose linear layers are held in bfloat16. They keep `weight` and
`bias`, so that whoever takes rows of them (the walk does, for prompts and for the last block) goes
on in bfloat16.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

LAYERS = ("qkv", "proj", "fc1", "fc2")
"""The linear layers of a block."""

GRADIENTS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
"""Types of a quantised gradient: three bits of mantissa, or two and a wider range. Each row having
its own scale, the range is hardly needed. Weights and activations are e4m3."""

FORMS = ("plain", "gelu", "gelu_gradient")
"""What is quantised: rows as they are, through GELU, or as the gradient behind GELU."""

_SMALLEST = 1e-12
"""So that a row of zeros has a scale."""

_FUSED_COLUMNS = 1024
"""Up to this row length torch.compile quantises in one pass, together with the norm before it."""


# Quantisation


def quantised(rows: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """8-bit values (M, K) and their float32 scales (M, 1): `values * scales` is about `rows`."""
    rows = rows.float()
    largest = torch.finfo(dtype).max
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST) / largest
    return (rows / scales).to(dtype), scales


def _gelu_gradient(gradient: Tensor, hidden: Tensor) -> Tensor:
    hidden = hidden.float()
    normal = 0.5 * (1 + torch.erf(hidden * 0.5**0.5))
    density = (2 * torch.pi) ** -0.5 * torch.exp(-0.5 * hidden.square())
    return gradient.float() * (normal + hidden * density)


# Custom operators, so that torch.compile and CUDA graphs take them as they are.


@torch.library.custom_op("fp8_prototype::quantised_rows", mutates_args=())
def quantised_rows(
    source: Tensor, form: str, dtype: torch.dtype, hidden: Tensor | None
) -> tuple[Tensor, Tensor]:
    if source.is_cuda:
        from fp8_kernels import quantise_rows  # needs Triton

        return quantise_rows(source, form, dtype, hidden)
    if form == "gelu":
        source = F.gelu(source.float())
    elif form == "gelu_gradient":
        assert hidden is not None
        source = _gelu_gradient(source, hidden)
    return quantised(source, dtype)


@quantised_rows.register_fake
def _(source: Tensor, form: str, dtype: torch.dtype, hidden: Tensor | None):
    scales = source.new_empty(source.shape[0], 1, dtype=torch.float32)
    return torch.empty_like(source, dtype=dtype), scales


@torch.library.custom_op("fp8_prototype::product", mutates_args=())
def product(
    rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None
) -> Tensor:
    """(M, K) times the transpose of (N, K), both with a scale per row; bfloat16 (M, N)."""
    if not rows.is_cuda:  # not all versions of torch have the product there
        exact = F.linear(rows.float(), weight.float()) * row_scales * weight_scales.t()
        return (exact if bias is None else exact + bias).bfloat16()
    return scaled_mm(
        rows,
        weight.t(),
        row_scales,
        ScalingType.RowWise,
        weight_scales.t(),
        ScalingType.RowWise,
        bias=bias,
        output_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


@product.register_fake
def _(rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None):
    return rows.new_empty(rows.shape[0], weight.shape[0], dtype=torch.bfloat16)


def _quantised(rows: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling() and rows.shape[1] <= _FUSED_COLUMNS:
        return quantised(rows, dtype)
    return quantised_rows(rows, "plain", dtype, None)


def _rows(tensor: Tensor) -> Tensor:
    """Contiguous (M, K) of (..., K)."""
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()


# Layers


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        forth: Tensor,
        forth_scales: Tensor,
        back: Tensor,
        back_scales: Tensor,
        bias: Tensor | None,
        gradient_dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(back, back_scales)
        ctx.types = inputs.dtype, gradient_dtype
        result = product(*_quantised(_rows(inputs)), forth, forth_scales, bias)
        return result.unflatten(0, inputs.shape[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        dtype, gradient_dtype = ctx.types
        quantised_gradient = _quantised(_rows(gradient), gradient_dtype)
        result = product(*quantised_gradient, *ctx.saved_tensors, None)
        return result.unflatten(0, gradient.shape[:-1]).to(dtype), *6 * (None,)


class Fp8Linear(nn.Linear):
    """A frozen layer in 8 bits that keeps the weight and bias it was made of."""

    forth: Tensor
    """(out, in) in e4m3, for the forward pass; `back` (in, out) for the backward pass."""
    forth_scales: Tensor
    back: Tensor
    back_scales: Tensor

    def __init__(self, linear: nn.Linear, gradient_dtype: torch.dtype) -> None:
        if linear.in_features % 16 or linear.out_features % 16:
            raise ValueError(f"{linear}: 8-bit products need multiples of 16")
        if linear.weight.requires_grad:
            raise ValueError(f"{linear} is trained; only frozen layers are quantised once")
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.gradient_dtype = gradient_dtype
        weight = linear.weight.detach()
        tables = *quantised(weight), *quantised(weight.t().contiguous())
        for name, table in zip(
            ("forth", "forth_scales", "back", "back_scales"), tables, strict=True
        ):
            self.register_buffer(name, table, persistent=False)

    @property
    def tables(self) -> tuple[Tensor | None, ...]:
        return self.forth, self.forth_scales, self.back, self.back_scales, self.bias

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) of any floating type to bfloat16 (..., out_features)."""
        return _Linear.apply(  # pyright: ignore[reportReturnType]
            input, *self.tables, self.gradient_dtype
        )


class _Mlp(torch.autograd.Function):
    """Between the layers, GELU and quantisation are one pass, in both directions."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        forth1: Tensor,
        forth_scales1: Tensor,
        back1: Tensor,
        back_scales1: Tensor,
        bias1: Tensor | None,
        forth2: Tensor,
        forth_scales2: Tensor,
        back2: Tensor,
        back_scales2: Tensor,
        bias2: Tensor | None,
        gradient_dtype: torch.dtype,
    ) -> Tensor:
        hidden = product(*_quantised(_rows(inputs)), forth1, forth_scales1, bias1)
        active = quantised_rows(hidden, "gelu", torch.float8_e4m3fn, None)
        ctx.save_for_backward(hidden, back1, back_scales1, back2, back_scales2)
        ctx.types = inputs.dtype, gradient_dtype
        return product(*active, forth2, forth_scales2, bias2).unflatten(0, inputs.shape[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, back1, back_scales1, back2, back_scales2 = ctx.saved_tensors
        dtype, gradient_dtype = ctx.types
        active = product(*_quantised(_rows(gradient), gradient_dtype), back2, back_scales2, None)
        before = quantised_rows(active, "gelu_gradient", gradient_dtype, hidden)
        result = product(*before, back1, back_scales1, None)
        return result.unflatten(0, gradient.shape[:-1]).to(dtype), *11 * (None,)


class Fp8Mlp(nn.Module):
    """The MLP of a block with both layers in 8 bits."""

    def __init__(self, fc1: Fp8Linear, fc2: Fp8Linear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        return _Mlp.apply(  # pyright: ignore[reportReturnType]
            x, *self.fc1.tables, *self.fc2.tables, self.fc1.gradient_dtype
        )


def _holder(block: Block, name: str) -> nn.Module:
    return block.attn if name in ("qkv", "proj") else block.mlp


def layer_of(block: Block, name: str) -> nn.Linear:
    """The layer of LAYERS in a block that nothing was swapped in."""
    layer = getattr(_holder(block, name), name)
    assert isinstance(layer, nn.Linear)
    return layer


def swap(
    vit: VisionTransformer, layers: Collection[str] = ("qkv", "fc1", "fc2"), gradients: str = "e4m3"
) -> None:
    """Put 8-bit layers in the place of the named `layers` of every block, frozen and on any device.

    The rest of the network, embedding and head too, stays as it is.
    """
    if unknown := set(layers) - set(LAYERS):
        raise ValueError(f"no such layers: {sorted(unknown)}; known: {', '.join(LAYERS)}")
    for block in vit.blocks:
        assert isinstance(block, Block)
        for name in layers:
            layer = Fp8Linear(layer_of(block, name), GRADIENTS[gradients])
            setattr(_holder(block, name), name, layer)
        mlp = block.mlp
        if isinstance(mlp, Mlp) and isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none":
            fc1, fc2, inert = mlp.fc1, mlp.fc2, isinstance(mlp.norm, nn.Identity)
            dropped = max(mlp.drop1.p, mlp.drop2.p) > 0
            if isinstance(fc1, Fp8Linear) and isinstance(fc2, Fp8Linear) and inert and not dropped:
                block.mlp = Fp8Mlp(fc1, fc2)

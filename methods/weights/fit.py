"""Whether tensors are those of a network, in numbers where they are not."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from methods.argument_values import Arguments
from methods.backbone_names import outline, plain_vits
from methods.families import check_supported
from methods.weights.arguments_of import arguments_that_fit
from methods.weights.layouts import JAX, Layout

_ELSEWHERE = (
    (r"relative_position|rel_pos", "relative positions (BEiT, data2vec)"),
    (
        r"\.(q|v)_bias$|\.attn\.(q|k|v)_proj\.",
        "biases or layers of query, key and value of its own (BEiT, EVA)",
    ),
    (r"rope|rotary|freqs|periods", "rotary positions (EVA-02, DINOv3)"),
    (r"dist_token|distillation_token", "a distillation token (DeiT distilled)"),
    (r"\.attn\.(q|k)_norm\.", "normalised queries and keys"),
    (r"\.mlp\.(fc1_g|fc1_x|w1|w2)\.|\.mlp\.norm\.", "another MLP (SwiGLU, EVA)"),
    (r"latent_tokens|prompt", "learnt tokens of a tuning method"),
    (r"lora_", "a LoRA adapter, to be merged into its network first"),
)
"""Names that plain ViTs have not, and what they mean."""

_MANY = 5


def fitted(
    state: dict[str, Tensor],
    vit: VisionTransformer,
    name: str,
    path: Path,
    layout: Layout,
    arguments: Arguments,
    said: Arguments,
) -> dict[str, Tensor]:
    """The state as `vit`, built with `arguments`, takes it, positions resampled for its images.

    Those of them that the user `said` are named where more would make it fit.

    ValueError says in numbers what differs, and which arguments or backbone of timm it would fit.
    """
    architecture = name.partition(".")[0]
    state = _as_this_vit_writes_it(state, vit, reads_mean=name.endswith(".mae"))
    is_flexible = name.startswith("flexivit")  # trained to have its patches resampled
    if differences := _differences(state, vit, is_flexible):
        raise ValueError(
            f"{path}: not the weights of this ViT ({architecture}):"
            f" {'; '.join(differences)}{_suggestion(state)}"
            f"{arguments_that_fit(state, vit, architecture, arguments, said)}"
        )
    expected = vit.state_dict()
    resample = ("bilinear", False) if layout is JAX else ("bicubic", True)  # as timm does
    state = checkpoint_filter_fn(state, vit, interpolation=resample[0], antialias=resample[1])
    if problems := mismatches(state, expected):
        raise ValueError(f"{path}: not the weights of this ViT: {'; '.join(problems)}")
    return state


def _as_this_vit_writes_it(
    state: dict[str, Tensor], vit: VisionTransformer, *, reads_mean: bool
) -> dict[str, Tensor]:
    """The same network in the form that timm gave this one.

    `reads_mean`: it will be read as MAE is, the mean of the tokens and then the norm.
    """
    state = dict(state)
    patches, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    kernel = vit.patch_embed.proj.weight
    if patches is not None and patches.ndim == 2 and patches.numel() == kernel.numel():
        state["patch_embed.proj.weight"] = patches.reshape(kernel.shape)  # patches as vectors
    if (
        "reg_token" in state
        and vit.no_embed_class
        and position is not None
        and _is_square(position.shape[1] - 1)
        and "cls_token" in state
    ):  # DINOv2 gives the class token a position, timm adds it to the token itself
        state["cls_token"] = state["cls_token"] + position[:, :1]
        state["pos_embed"] = position[:, 1:]
    if reads_mean and "norm.weight" not in state:  # MAE, fine-tuned, calls its one norm fc_norm
        for end in ("weight", "bias"):
            if f"fc_norm.{end}" in state:
                state[f"norm.{end}"] = state.pop(f"fc_norm.{end}")
    return state


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _differences(
    state: Mapping[str, Tensor], vit: VisionTransformer, is_flexible: bool
) -> list[str]:
    found = [f"it has {what}" for pattern, what in _ELSEWHERE if _any(pattern, state, vit)]
    kernel = state.get("patch_embed.proj.weight")
    own = vit.patch_embed.proj.weight
    if kernel is not None and kernel.ndim == 4:
        if kernel.shape[1] != own.shape[1]:
            found.append(
                f"images of {kernel.shape[1]} channels, this backbone takes {own.shape[1]}"
            )
        if kernel.shape[2:] != own.shape[2:] and not is_flexible:
            theirs, ours = ("×".join(map(str, shape[2:])) for shape in (kernel.shape, own.shape))
            found.append(f"patches of {theirs} pixels, this backbone has {ours}")
        if kernel.shape[0] != own.shape[0]:
            found.append(f"width {kernel.shape[0]}, this backbone has {own.shape[0]}")
    blocks = num_blocks(state)
    if blocks and blocks != len(vit.blocks):
        found.append(f"{blocks} blocks, this backbone has {len(vit.blocks)}")
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    if registers != vit.num_reg_tokens:
        found.append(
            f"{registers or 'no'} register tokens, this backbone has {vit.num_reg_tokens or 'none'}"
        )
    expected = vit.state_dict()
    for what, pattern in (
        ("class token", r"cls_token"),
        ("layer scale", r"blocks\.0\.ls1\.gamma"),
        ("norm before the blocks", r"norm_pre\.weight"),
        ("norm behind the mean of the tokens (fc_norm)", r"fc_norm\.weight"),
        ("attention pooling", r"attn_pool\.latent"),
    ):
        theirs, ours = (any(re.fullmatch(pattern, k) for k in keys) for keys in (state, expected))
        if theirs != ours:
            found.append(
                f"{'a' if theirs else 'no'} {what}, this backbone has {'one' if ours else 'none'}"
            )
    position = state.get("pos_embed")
    if position is not None and vit.pos_embed is not None and not found:
        own_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        rows = position.shape[1]
        if rows != vit.pos_embed.shape[1] and not _is_square(rows - own_prefix):
            found.append(
                f"{rows} positions, which are no square of patches and {own_prefix} other tokens"
            )
    if found:
        return found
    shapes = {k: v for k, v in expected.items() if not (k == "pos_embed" and k in state)}
    ours = {k: v for k, v in state.items() if k in shapes or k not in expected}
    return mismatches(ours, shapes, is_flexible=is_flexible)


def _any(pattern: str, state: Mapping[str, Tensor], vit: VisionTransformer) -> bool:
    own = vit.state_dict().keys()
    return any(re.search(pattern, key) for key in state if key not in own)


def num_blocks(state: Mapping[str, Tensor]) -> int:
    numbers = (re.match(r"blocks\.(\d+)\.", key) for key in state)
    return max((int(found[1]) + 1 for found in numbers if found), default=0)


def mismatches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, is_flexible: bool = False
) -> list[str]:
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    reshaped = sorted(
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
        and not (is_flexible and key == "patch_embed.proj.weight")
    )
    return [
        f"{what}: {', '.join(keys[:_MANY])}"
        + (f" and {len(keys) - _MANY} more" if len(keys) > _MANY else "")
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("shape", reshaped))
        if keys
    ]


def _suggestion(state: Mapping[str, Tensor]) -> str:
    """The backbones of timm that these tensors fit, by names and shapes."""
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return ""
    fitting = [
        name
        for name in plain_vits()
        if f"patch{kernel.shape[-1]}_" in name
        and _has_shapes(name, {k: v for k, v in state.items() if _of_first(k)}, depth=1)
        and _has_shapes(name, state)
    ]
    if not fitting:
        return ""
    return f"; {' or '.join(fitting[:3])} would fit"


def _of_first(key: str) -> bool:
    """Not of a later block: one block is much cheaper to lay out than forty."""
    return num_blocks({key: Tensor()}) < 2


def _has_shapes(name: str, state: Mapping[str, Tensor], **options: int) -> bool:
    vit = outline(name, **options)
    try:
        check_supported(vit or nn.Identity())
    except ValueError:
        return False
    assert vit is not None
    own, theirs = (
        {k: v.shape for k, v in tensors.items() if k != "pos_embed"}
        for tensors in (vit.state_dict(), state)
    )
    return own == theirs

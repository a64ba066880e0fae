"""Names of other libraries in timm's words.

A layout is a marker, by which a network is found, and a table of renamings. A target `NAME#1` is
the second of the parts that are joined to NAME (query, key and value). What a table does not know
keeps its name, and `fit` refuses it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Renaming = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a library or a project names the tensors of a ViT."""

    title: str
    marker: str
    """The patch embedding's name; what stands in front of it is the prefix of the network."""
    renamings: Sequence[Renaming] = ()
    """How whole names behind the prefix are renamed."""
    dropped: str = r"(?!)"
    """Classifiers and pretraining heads, which tuning replaces."""
    beside: str = ""
    """A name that must be there too, where the marker alone says too little."""
    norm_eps: float | None = None
    """The epsilon of the library's norms, where the file does not say."""
    separator: str = "."

    def rename(self, name: str) -> str | None:
        """timm's name; None for what is dropped."""
        if re.match(self.dropped, name):
            return None
        for pattern, target in self.renamings:
            if found := re.fullmatch(pattern, name):
                return found.expand(target) if isinstance(target, str) else target(found)
        return name


_END = r"(weight|bias)"
_QKV = {"query": 0, "key": 1, "value": 2, "q": 0, "k": 1, "v": 2}


def _joined(found: re.Match) -> str:
    index, part, end = found.groups()
    return f"blocks.{index}.attn.qkv.{end}#{_QKV[part]}"


TIMM = Layout(
    title="timm's names",
    marker=r"patch_embed\.proj\.weight",
    renamings=(
        (r"blocks\.\d+\.(\d+)\.(.+)", r"blocks.\1.\2"),  # DINOv2's chunks of blocks, for FSDP
        (r"register_tokens", "reg_token"),
        (r"blocks\.(\d+)\.gamma_([12])", r"blocks.\1.ls\2.gamma"),  # DeiT-III
        (rf"blocks\.(\d+)\.mlp\.w12\.{_END}", r"blocks.\1.mlp.fc1.\2"),  # DINOv2, giant
        (rf"blocks\.(\d+)\.mlp\.w3\.{_END}", r"blocks.\1.mlp.fc2.\2"),
    ),
    dropped=(
        r"(head|head_dist|heads|fc|pre_logits|dino_head|ibot_head|predictor|projector|classifier)\."
        r"|mask_token$|decoder_"
    ),
)

TIMM_NAFLEX = Layout(
    title="timm's names of NaFlexVit", marker=r"embeds\.proj\.weight", dropped=TIMM.dropped
)

MMPRETRAIN = Layout(
    title="mmpretrain's names",
    marker=r"patch_embed\.projection\.weight",
    beside=rf"layers\.0\.(ln1|norm1)\.{_END}",
    renamings=(
        (rf"patch_embed\.projection\.{_END}", r"patch_embed.proj.\1"),
        (rf"layers\.(\d+)\.(?:ln|norm)([12])\.{_END}", r"blocks.\1.norm\2.\3"),
        (rf"layers\.(\d+)\.attn\.(qkv|proj)\.{_END}", r"blocks.\1.attn.\2.\3"),
        (rf"layers\.(\d+)\.ffn\.layers\.0\.0\.{_END}", r"blocks.\1.mlp.fc1.\2"),
        (rf"layers\.(\d+)\.ffn\.layers\.1\.{_END}", r"blocks.\1.mlp.fc2.\2"),
        (
            r"layers\.(\d+)\.(?:attn\.gamma|ffn\.gamma|ls|gamma_)([12])(?:\.(?:weight|scale|gamma))?",
            r"blocks.\1.ls\2.gamma",
        ),
        (rf"(?:ln|norm)1\.{_END}", r"norm.\1"),
        (rf"(?:ln|norm)2\.{_END}", r"fc_norm.\1"),
        (rf"pre_norm\.{_END}", r"norm_pre.\1"),
    ),
    dropped=r"(head|neck)\.|mask_token$",
    norm_eps=1e-6,
)

TORCHVISION = Layout(
    title="torchvision's names",
    marker=r"conv_proj\.weight",
    renamings=(
        (rf"conv_proj\.{_END}", r"patch_embed.proj.\1"),
        (r"class_token", "cls_token"),
        (r"encoder\.pos_embedding", "pos_embed"),
        (rf"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.{_END}", r"blocks.\1.norm\2.\3"),
        (
            rf"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_{_END}",
            r"blocks.\1.attn.qkv.\2",
        ),
        (
            rf"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.{_END}",
            r"blocks.\1.attn.proj.\2",
        ),
        (
            rf"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.{_END}",
            r"blocks.\1.mlp.fc1.\2",
        ),
        (
            rf"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.{_END}",
            r"blocks.\1.mlp.fc2.\2",
        ),
        (rf"encoder\.ln\.{_END}", r"norm.\1"),
    ),
    dropped=r"heads\.",
    norm_eps=1e-6,
)

OPENAI_CLIP = Layout(
    title="CLIP's names (OpenAI, open_clip)",
    marker=r"conv1\.weight",
    beside=r"class_embedding",
    renamings=(
        (r"conv1\.weight", "patch_embed.proj.weight"),
        (r"class_embedding", "cls_token"),
        (r"positional_embedding", "pos_embed"),
        (rf"ln_pre\.{_END}", r"norm_pre.\1"),
        (rf"ln_post\.{_END}", r"norm.\1"),
        (rf"transformer\.resblocks\.(\d+)\.ln_([12])\.{_END}", r"blocks.\1.norm\2.\3"),
        (rf"transformer\.resblocks\.(\d+)\.attn\.in_proj_{_END}", r"blocks.\1.attn.qkv.\2"),
        (rf"transformer\.resblocks\.(\d+)\.attn\.out_proj\.{_END}", r"blocks.\1.attn.proj.\2"),
        (rf"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.{_END}", r"blocks.\1.mlp.fc1.\2"),
        (rf"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.{_END}", r"blocks.\1.mlp.fc2.\2"),
        (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    ),
    dropped=r"proj$",
    norm_eps=1e-5,
)

_LAYER = r"(?:encoder\.)?layers?\.(\d+)\."
_MODEL_LAYER = r"(?:model\.)?layer\.(\d+)\."

TRANSFORMERS_VIT = Layout(
    title="transformers' names (ViT, ViTMAE, ViTMSN, DINOv2, I-JEPA)",
    marker=r"embeddings\.patch_embeddings\.projection\.weight",
    renamings=(
        (rf"embeddings\.patch_embeddings\.projection\.{_END}", r"patch_embed.proj.\1"),
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.register_tokens", "reg_token"),
        (rf"{_LAYER}attention\.attention\.(query|key|value)\.{_END}", _joined),
        (rf"{_LAYER}attention\.(q|k|v)_proj\.{_END}", _joined),
        (rf"{_LAYER}attention\.(?:output\.dense|o_proj)\.{_END}", r"blocks.\1.attn.proj.\2"),
        (rf"{_LAYER}(?:layernorm_before|norm1)\.{_END}", r"blocks.\1.norm1.\2"),
        (rf"{_LAYER}(?:layernorm_after|norm2)\.{_END}", r"blocks.\1.norm2.\2"),
        (
            rf"{_LAYER}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.{_END}",
            r"blocks.\1.mlp.fc1.\2",
        ),
        (rf"{_LAYER}(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.{_END}", r"blocks.\1.mlp.fc2.\2"),
        (rf"{_LAYER}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
        (rf"layernorm\.{_END}", r"norm.\1"),
    ),
    dropped=r"(pooler|classifier|decoder)\.|embeddings\.mask_token$",
    norm_eps=1e-12,
)

TRANSFORMERS_CLIP = Layout(
    title="transformers' names (CLIP, SigLIP)",
    marker=r"embeddings\.patch_embedding\.weight",
    renamings=(
        (rf"embeddings\.patch_embedding\.{_END}", r"patch_embed.proj.\1"),
        (r"embeddings\.class_embedding", "cls_token"),
        (r"embeddings\.position_embedding\.weight", "pos_embed"),
        (rf"pre_layrnorm\.{_END}", r"norm_pre.\1"),
        (rf"post_layernorm\.{_END}", r"norm.\1"),
        (rf"{_LAYER}self_attn\.(q|k|v)_proj\.{_END}", _joined),
        (rf"{_LAYER}self_attn\.out_proj\.{_END}", r"blocks.\1.attn.proj.\2"),
        (rf"{_LAYER}layer_norm([12])\.{_END}", r"blocks.\1.norm\2.\3"),
        (rf"{_LAYER}mlp\.(fc[12])\.{_END}", r"blocks.\1.mlp.\2.\3"),
        (r"head\.probe", "attn_pool.latent"),
        (rf"head\.attention\.in_proj_{_END}", r"attn_pool.in_proj.\1"),
        (rf"head\.attention\.out_proj\.{_END}", r"attn_pool.proj.\1"),
        (rf"head\.layernorm\.{_END}", r"attn_pool.norm.\1"),
        (rf"head\.mlp\.(fc[12])\.{_END}", r"attn_pool.mlp.\1.\2"),
    ),
    dropped=r"embeddings\.position_ids$|classifier\.",
)

TRANSFORMERS_DINOV3 = Layout(
    title="transformers' names (DINOv3)",
    marker=r"embeddings\.patch_embeddings\.weight",
    renamings=(
        (rf"embeddings\.patch_embeddings\.{_END}", r"patch_embed.proj.\1"),
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.register_tokens", "reg_token"),
        (rf"{_MODEL_LAYER}attention\.(q|k|v)_proj\.(weight)", _joined),
        (rf"{_MODEL_LAYER}attention\.(q|v)_proj\.bias", r"blocks.\1.attn.\2_bias"),
        (rf"{_MODEL_LAYER}attention\.o_proj\.{_END}", r"blocks.\1.attn.proj.\2"),
        (rf"{_MODEL_LAYER}norm([12])\.{_END}", r"blocks.\1.norm\2.\3"),
        (rf"{_MODEL_LAYER}layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
        (rf"{_MODEL_LAYER}mlp\.gate_proj\.{_END}", r"blocks.\1.mlp.fc1_g.\2"),
        (rf"{_MODEL_LAYER}mlp\.up_proj\.{_END}", r"blocks.\1.mlp.fc1.\2"),
        (rf"{_MODEL_LAYER}mlp\.down_proj\.{_END}", r"blocks.\1.mlp.fc2.\2"),
    ),
    dropped=r"embeddings\.mask_token$|rope_embeddings\.|(classifier|head)\.",
    norm_eps=1e-5,
)

_JAX_END = r"(kernel|scale|bias)"
_BLOCK = r"Transformer/encoderblock_(\d+)/"


def _end(word: str) -> str:
    return "bias" if word == "bias" else "weight"


def _jax_norm(found: re.Match) -> str:
    return f"blocks.{found[1]}.norm{1 if found[2] == '0' else 2}.{_end(found[3])}"


def _jax_qkv(found: re.Match) -> str:
    return f"blocks.{found[1]}.attn.qkv.{_end(found[3])}#{_QKV[found[2]]}"


def _jax_pool(found: re.Match) -> str:
    part = {"query": "q.{}", "key": "kv.{}#0", "value": "kv.{}#1", "out": "proj.{}"}[found[1]]
    return "attn_pool." + part.format(_end(found[2]))


JAX = Layout(
    title="JAX's names (vision_transformer, big_vision)",
    marker=r"embedding/kernel",
    separator="/",
    renamings=(
        (rf"embedding/{_JAX_END}", lambda m: f"patch_embed.proj.{_end(m[1])}"),
        (r"cls", "cls_token"),
        (r"(?:Transformer/posembed_input/)?pos_embedding", "pos_embed"),
        (rf"Transformer/encoder_norm/{_JAX_END}", lambda m: f"norm.{_end(m[1])}"),
        (rf"{_BLOCK}LayerNorm_([012])/{_JAX_END}", _jax_norm),
        (rf"{_BLOCK}MultiHeadDotProductAttention_[01]/(query|key|value)/{_JAX_END}", _jax_qkv),
        (
            rf"{_BLOCK}MultiHeadDotProductAttention_[01]/out/{_JAX_END}",
            lambda m: f"blocks.{m[1]}.attn.proj.{_end(m[2])}",
        ),
        (
            rf"{_BLOCK}MlpBlock_[03]/Dense_([01])/{_JAX_END}",
            lambda m: f"blocks.{m[1]}.mlp.fc{int(m[2]) + 1}.{_end(m[3])}",
        ),
        (r"MAPHead_0/probe", "attn_pool.latent"),
        (rf"MAPHead_0/MultiHeadDotProductAttention_0/(query|key|value|out)/{_JAX_END}", _jax_pool),
        (rf"MAPHead_0/LayerNorm_0/{_JAX_END}", lambda m: f"attn_pool.norm.{_end(m[1])}"),
        (
            rf"MAPHead_0/MlpBlock_0/Dense_([01])/{_JAX_END}",
            lambda m: f"attn_pool.mlp.fc{int(m[1]) + 1}.{_end(m[2])}",
        ),
    ),
    dropped=r"(head|pre_logits)/",
)

LAYOUTS = (
    TIMM, TIMM_NAFLEX, MMPRETRAIN, TORCHVISION, OPENAI_CLIP, TRANSFORMERS_VIT, TRANSFORMERS_CLIP,
    TRANSFORMERS_DINOV3, JAX
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A network under timm's names."""

    state: dict[str, Tensor]
    num_heads: int | None
    """Where shapes tell it: JAX keeps the heads apart."""
    dropped: tuple[str, ...]
    """Names that were left out, with the prefix of the network."""


def convert(layout: Layout, tensors: Mapping[str, Tensor], prefix: str) -> Converted:
    """timm's names and shapes, in float32. ValueError names a tensor without usable values."""
    if layout is JAX:
        tensors = _unstacked(tensors)
    found: dict[str, Tensor] = {}
    dropped = []
    num_heads = None
    for name, tensor in tensors.items():
        target = layout.rename(name)
        if target is None:
            dropped.append(prefix + name)
            continue
        check_values(prefix + name, tensor)
        if layout is JAX:
            if target.endswith(".attn.qkv.weight#0") and tensor.ndim == 3:
                num_heads = tensor.shape[1]
            tensor = _from_jax(name, target, tensor)
        if target in found:
            raise ValueError(f"{prefix + name}: another tensor of the file is {target}, too")
        found[target] = tensor.float()
    state: dict[str, Tensor] = {}
    for target in sorted(found, key=lambda t: t.partition("#")[::2]):
        name, joined, _ = target.partition("#")
        part = found[target]
        state[name] = torch.cat([state[name], part]) if joined and name in state else part
    for end in ("weight", "bias"):
        if f"attn_pool.in_proj.{end}" in state:
            both = state.pop(f"attn_pool.in_proj.{end}")
            width = both.shape[0] // 3
            state[f"attn_pool.q.{end}"], state[f"attn_pool.kv.{end}"] = both[:width], both[width:]
    for name in ("cls_token", "reg_token", "pos_embed", "attn_pool.latent"):
        if name in state and state[name].ndim < 3:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    return Converted(state=state, num_heads=num_heads, dropped=tuple(dropped))


def check_values(name: str, tensor: Tensor) -> None:
    """ValueError if these are not plain, finite floats that lie in the file."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    if tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else "sparse"
        raise ValueError(f"{name} is {kind}; weights are read as plain float tensors")
    if tensor.device.type == "meta":
        raise ValueError(f"{name} has a shape but no values (a tensor on the device 'meta')")
    if tensor.dtype not in dtypes:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is {kind}; read are float32, float16, bfloat16 and float64")
    if not lies_in_file(tensor):
        raise ValueError(
            f"{name} claims {tensor.numel():,} values of which the file has not as many"
            f" (shape {tuple(tensor.shape)}, strides {tensor.stride()})"
        )
    if not (finite := torch.isfinite(tensor.detach())).all():
        number = int((~finite).sum())
        kind = "NaN" if torch.isnan(tensor).any() else "infinity"
        raise ValueError(f"{name} holds {kind} ({number:,} of {tensor.numel():,} values)")


def lies_in_file(tensor: Tensor) -> bool:
    """Whether every value is one of its own in memory; strides of 0 can claim any number."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """big_vision's scanned blocks, one tensor for all, as one for each."""
    stacked = "Transformer/encoderblock/"
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.startswith(stacked) and tensor.ndim:
            for index, one in enumerate(tensor):
                found[f"Transformer/encoderblock_{index}/{name.removeprefix(stacked)}"] = one
        else:
            found[name] = tensor
    return found


def _from_jax(name: str, target: str, tensor: Tensor) -> Tensor:
    """JAX's kernels are (in, out), its heads an axis of their own."""
    if target == "patch_embed.proj.weight" and tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    if not name.endswith("/kernel"):
        keep = target in ("cls_token", "pos_embed", "attn_pool.latent")
        return tensor if keep else tensor.reshape(-1)
    if tensor.ndim == 3 and "/out/" in name:
        return tensor.flatten(0, 1).T
    return tensor.flatten(1).T

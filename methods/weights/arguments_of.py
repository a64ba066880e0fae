"""Which arguments would make a network of timm that has the tensors of a file."""

import math
import re
from collections.abc import Mapping

from timm.models import VisionTransformer
from torch import Tensor

from methods.argument_values import Arguments, Value
from methods.backbone_names import outline
from methods.build_arguments import as_typed, built_with


def arguments_that_fit(
    state: Mapping[str, Tensor],
    vit: VisionTransformer,
    architecture: str,
    arguments: Arguments,
    said: Arguments,
) -> str:
    """`; --backbone-args init_values=1e-5 would make it fit`, tried; empty where none would.

    `vit` is what timm builds of `architecture` with `arguments`; of these the user `said` some,
    which come first in the answer. Only what names and shapes of tensors show is asked for.
    """
    found = _shown_by(state, vit)
    if not found:
        return ""
    try:
        options = built_with({**arguments, **found}, type(vit), source=architecture)
        there = outline(architecture, **options)
    except Exception:  # timm's constructors raise many kinds for what does not go together
        return ""
    if there is None or _shapes(there.state_dict()) != _shapes(state):
        return ""
    if "pos_embed" in state and there.pos_embed is not None:
        own_prefix = 0 if there.no_embed_class else there.num_prefix_tokens
        if not _is_square(state["pos_embed"].shape[1] - own_prefix):
            return ""
    return f"; --backbone-args {as_typed({**said, **found})} would make it fit"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of all but the positions, which are resampled."""
    return {name: tuple(t.shape) for name, t in tensors.items() if name != "pos_embed"}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _shown_by(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Value]:
    """What of the tensors is not as in `vit`, as arguments."""
    return {
        **_of_tokens(state, vit),
        **_of_norms(state, vit),
        **_of_blocks(state, vit),
        **_of_mlp(state, vit),
    }


def _of_tokens(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Value]:
    found: dict[str, Value] = {}
    has_class = "cls_token" in state
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    if has_class != vit.has_class_token:
        found["class_token"] = has_class
    if registers != vit.num_reg_tokens:
        found["reg_tokens"] = registers
    position = state.get("pos_embed")
    if position is None and vit.pos_embed is not None:
        found["pos_embed"] = "none"
    elif position is not None:
        rows, prefix = position.shape[1], has_class + registers
        embeds_all, embeds_none = (_is_square(rows - n) for n in (prefix, 0))
        if prefix and embeds_none != embeds_all and embeds_none != vit.no_embed_class:
            found["no_embed_class"] = embeds_none
    return found


def _of_norms(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Value]:
    """The norms at both ends, and the pooling, which decides where the last one stands."""
    found: dict[str, Value] = {}
    own = vit.state_dict()
    if (pre := "norm_pre.weight" in state) != ("norm_pre.weight" in own):
        found["pre_norm"] = pre
    ends = ("attn_pool.latent", "fc_norm.weight", "norm.weight")
    pools, behind, before = (name in state for name in ends)
    has_class = "cls_token" in state
    is_read_by_class = vit.global_pool == "token" and not has_class
    if (pools, behind, before) == tuple(name in own for name in ends) and not is_read_by_class:
        return found
    if pools:
        found["global_pool"] = "map"
    elif behind or not has_class:
        found["global_pool"] = "avg"
    elif vit.global_pool != "token":
        found["global_pool"] = "token"
    if not before and not behind:
        found["final_norm"] = False
    elif behind == (found.get("global_pool", vit.global_pool) != "avg"):
        found["fc_norm"] = behind
    return found


def _of_blocks(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Value]:
    found: dict[str, Value] = {}
    own = vit.state_dict()
    numbers = {int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    if numbers and max(numbers) + 1 != len(vit.blocks):
        found["depth"] = max(numbers) + 1
    for argument, tensor in (
        ("qkv_bias", "attn.qkv.bias"),
        ("qk_norm", "attn.q_norm.weight"),
        ("scale_attn_norm", "attn.norm.weight"),
        ("scale_mlp_norm", "mlp.norm.weight"),
        ("proj_bias", "attn.proj.bias"),
    ):
        there, here = (f"blocks.0.{tensor}" in tensors for tensors in (state, own))
        if there != here:
            found[argument] = there
    there, here = ("blocks.0.ls1.gamma" in tensors for tensors in (state, own))
    if there != here:
        found["init_values"] = 1e-5 if there else None  # its value: the file has the scales
    return found


def _of_mlp(state: Mapping[str, Tensor], vit: VisionTransformer) -> dict[str, Value]:
    """A gated MLP multiplies two halves, so that its second layer is half as wide as its first."""
    own = vit.state_dict()
    split = state.get("blocks.0.mlp.fc1_g.weight")
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    own_first, own_second = (own.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    found: dict[str, Value] = {}
    if second is None or second.ndim != 2 or (split is None and first is None):
        return found
    is_gated = first is not None and first.shape[0] == 2 * second.shape[1]
    if split is not None and "blocks.0.mlp.fc1_g.weight" not in own:
        found = {"mlp_layer": "SwiGLU", "act_layer": "SiLU"}
    elif is_gated and (
        own_first is None
        or own_first.shape[0] != 2 * second.shape[1]
        or (own_second is None or own_second.shape[1] != second.shape[1])
    ):
        found = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
    elif (
        split is None
        and not is_gated
        and own_first is not None
        and own_second is not None
        and (own_first.shape[0] != own_second.shape[1])
    ):
        found = {"mlp_layer": "Mlp"}
    hidden = (first if first is not None else second.T).shape[0]
    own_hidden = None if own_first is None else own_first.shape[0]
    if hidden != own_hidden and second.shape[0] == vit.embed_dim:
        found["mlp_ratio"] = _ratio(hidden, vit.embed_dim)
    return found


def _ratio(hidden: int, width: int) -> float:
    """The shortest number that timm makes this width of: it cuts off what is behind the point."""
    for digits in range(8):
        ratio = math.ceil(hidden / width * 10**digits) / 10**digits
        if int(width * ratio) == hidden:
            return ratio
    return hidden / width

"""timm's own blocks in the plain form: their positions, and what a method does in the attention.

Rows of prompts have no position: they are not rotated, and no score of theirs gets a bias.
"""

from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from methods.method import overrides


def embedded(vit, images):
    """The tokens that enter the first block, and for each block what timm gives it beside them."""
    kind, depth = type(vit).__name__, len(vit.blocks)
    if kind == "NaFlexVit":
        return vit.norm_pre(vit.embeds(images)[0]), [{}] * depth
    patches = vit.patch_embed(images)
    if kind == "Eva":
        if vit.rope is not None:
            vit.rope.eval()  # its coordinates are not moved at random
        tokens, rope = vit._pos_embed(patches)
        if rope is None:
            return vit.norm_pre(tokens), [{}] * depth
        of_block = rope if vit.rope_mixed else [rope] * depth
        return vit.norm_pre(tokens), [{"rope": of_block[index]} for index in range(depth)]
    if kind == "Beit":
        tokens = _with_class(vit, patches)
        tokens = tokens if vit.pos_embed is None else tokens + vit.pos_embed
        shared = None if vit.rel_pos_bias is None else vit.rel_pos_bias()
        return tokens, [{"shared_rel_pos_bias": shared}] * depth
    if kind == "VisionTransformerRelPos":
        tokens = patches if vit.cls_token is None else _with_class(vit, patches)
        shared = None if vit.shared_rel_pos is None else vit.shared_rel_pos.get_bias()
        return tokens, [{"shared_rel_pos": shared}] * depth
    return vit.norm_pre(vit._pos_embed(patches)), [{}] * depth


def _with_class(vit, patches):
    return torch.cat([vit.cls_token.expand(len(patches), -1, -1), patches], dim=1)


def is_normed_behind(block):
    """Whether the norms stand behind attention and MLP."""
    return type(block).__name__ in ("EvaBlockPostNorm", "ResPostRelPosBlock")


@contextmanager
def attention_with(block, tuning, index, first, end):
    """The block's attention as `tuning` (None: nothing) has it in block `index`, with prompts in
    the rows from `first` to `end`."""
    attn = block.attn
    with ExitStack() as stack:
        if (own := getattr(attn, "num_prefix_tokens", None)) is not None:
            attn.num_prefix_tokens = end  # the rows that are not rotated
            stack.callback(setattr, attn, "num_prefix_tokens", own)
        hooks = ("query_update", "value_update", "temperature")
        acts = tuning is not None and any(overrides(tuning, hook) for hook in hooks)
        if acts or "RelPos" in type(attn).__name__ or hasattr(attn, "relative_position_bias_table"):
            stack.enter_context(_Attention(attn, tuning if acts else None, index, first, end))
        yield


class _Attention(TorchFunctionMode):
    """Changes the linear layers and the scores of one attention while it runs."""

    def __init__(self, attn, tuning, index, first, end):
        super().__init__()
        self.layers = [getattr(attn, name, None) for name in ("qkv", "q_proj", "v_proj")]
        self.tuning, self.index, self.first, self.end = tuning, index, first, end

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            bias = self._with_room(kwargs.get("attn_mask"))
            temperature = self.tuning and self.tuning.temperature(self.index)
            if temperature is not None:
                args = (args[0] / temperature, *args[1:])
                bias = None if bias is None else bias / temperature
            kwargs["attn_mask"] = bias
        output = func(*args, **kwargs)
        if func is F.linear and self.tuning is not None:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            return self._updated(args[0], weight, output)
        return output

    def _updated(self, normed, weight, output):
        fused, of_queries, of_values = (
            layer is not None and layer.weight is weight for layer in self.layers
        )
        if fused:
            q, k, v = output.chunk(3, dim=-1)
            return torch.cat([self._queries(normed, q), k, self._values(normed, v)], dim=-1)
        if of_queries:
            return self._queries(normed, output)
        return self._values(normed, output) if of_values else output

    def _queries(self, normed, q):
        update = self.tuning.query_update(self.index, normed)
        return q if update is None else q + update

    def _values(self, normed, v):
        update = self.tuning.value_update(self.index, normed)
        return v if update is None else v + update

    def _with_room(self, bias):
        if bias is None or self.end == self.first:
            return bias
        first, count = self.first, self.end - self.first
        rows = bias.new_zeros(*bias.shape[:-2], count, bias.shape[-1])
        bias = torch.cat([bias[..., :first, :], rows, bias[..., first:, :]], dim=-2)
        columns = bias.new_zeros(*bias.shape[:-1], count)
        return torch.cat([bias[..., :first], columns, bias[..., first:]], dim=-1)

"""The attention of every family, and the one place that knows what prompts are to it.

A prompt that is thrown away behind its block acts as one more key and value. Neither depends on
the image, nor on where the prompt would stand: they are computed once per step and shared.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from methods.families.family import Family, Place


def project(
    family: Family,
    block: nn.Module,
    normed: Tensor,
    asking: slice,
    prompts: Tensor | None,
    place: Place,
    in_sequence: int = 0,
    update: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the asking tokens, keys and values of `prompts` and of all tokens, by heads.

    `normed` is (B, N, d), `prompts` (P, d) or (B, P, d) and not normed yet. `in_sequence` prompts
    stand among the tokens. `update` makes of the asking tokens, their queries and the values of
    all tokens other queries and values. Returns (B, [windows *] heads, T or P + N, c) each.
    """
    asking_normed = normed[:, asking]
    if asking_normed.shape[1] == normed.shape[1]:
        q, k, v = family.queries_keys_values(block, normed)
    else:
        q = family.queries(block, asking_normed)
        k, v = family.keys_values(block, normed)
    if update is not None:
        q, v = update(asking_normed, q, v)
    of_prompts = None
    if prompts is not None:
        prompts = prompts.to(normed.dtype)
        if prompts.ndim == 2:
            prompts = prompts.unsqueeze(0)
        of_prompts = family.keys_values(block, family.before_attention(block, prompts))
    q, k, v = family.arrange(block, q, k, v, of_prompts, in_sequence)
    return family.heads(block, q, k, v, place)


def attend(
    family: Family,
    block: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    temperature: Tensor | float | None = None,
    in_sequence: int = 0,
) -> Tensor:
    """The values of all heads, mixed by the scores (B, T, width), from what `project` gave; what
    the attention says is `Family.project` of it.

    `bias` is added to the scores, `temperature` divides them.
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    if temperature is not None:
        q = q / temperature
        bias = None if bias is None else bias / temperature
    attended = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=bias,
        dropout_p=family.attention_dropout(block),
        scale=family.score_scale(block),
    )
    return family.merge(block, attended, in_sequence)

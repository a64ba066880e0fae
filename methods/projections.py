"""What makes queries, keys and values of a block's tokens, as plain matrices."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.families.family import NOWHERE, Family


class Projection(NamedTuple):
    """A linear layer: y = x @ weight.T + bias."""

    weight: Tensor
    """(out, d)."""
    bias: Tensor
    """(out,), zero where the block has none."""


@torch.no_grad()
def projections(
    family: Family, block: nn.Module, width: int
) -> tuple[Projection, Projection, Projection]:
    """Those of queries, keys and values of normed tokens of this width: float64, on the CPU.

    Asked of the family, so that it does not matter how the block holds its weights. Keys and values
    that several heads of queries share stand there once for each: all three are (out, d).
    """
    exact = copy.deepcopy(block).to("cpu", torch.float64)
    probes = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(torch.float64)
    answers = family.queries_keys_values(exact, probes[None])
    if (shared := answers[0].shape[-1] // answers[1].shape[-1]) > 1:
        size = family.heads(exact, *answers, NOWHERE)[0].shape[-1]
        q, *rest = (answer.unflatten(-1, (-1, size)) for answer in answers)
        answers = [t.flatten(-2) for t in (q, *(t.repeat_interleave(shared, -2) for t in rest))]
    query, key, value = (
        Projection(weight=(answer[0, 1:] - answer[0, 0]).T, bias=answer[0, 0]) for answer in answers
    )
    return query, key, value

"""A backbone that many tuned models share, each with its own copy of what it trains."""

import copy

import torch
from torch import nn


def share(module: nn.Module, trained: set[int], dtype: torch.dtype) -> nn.Module:
    """The same module with frozen weights that share their memory, and clones of the trained ones.

    A layer with a trained weight is held in `dtype`, the type of what is trained, whole: not all
    kernels take a norm in two types. (A deep copy would do the same, three times slower.)
    """
    twin = copy.copy(module)
    tables = {name: table.copy() for name, table in vars(module).items() if isinstance(table, dict)}
    vars(twin).update(tables)
    learns = any(id(weight) in trained for weight in module.parameters(recurse=False))
    for name, weight in module.named_parameters(recurse=False):
        values = weight.detach()
        if learns:
            values = values.to(dtype)
        if id(weight) in trained:
            values = values.clone()
        setattr(twin, name, nn.Parameter(values, requires_grad=id(weight) in trained))
    for name, child in module.named_children():
        setattr(twin, name, share(child, trained, dtype))
    return twin

"""A trial's part of the memory of a GPU, which it may share with others.

Whoever comes first would take half of what is free, the next half of the rest: parts are of the
whole, and nobody takes more than its own.
"""

import torch

OUTSIDE_BYTES = 1 << 30
"""What a process takes of a GPU beside its tensors: CUDA's context, kernels, workspaces."""


def keep_to_part(gpu_share: float) -> None:
    """From now on this process is out of memory where its part ends, not where that of all does."""
    if gpu_share < 1:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(_limit(gpu_share, total) / total)


def free_bytes(gpu_share: float) -> int:
    """What this process can still take of the GPU."""
    torch.cuda.empty_cache()  # what nobody holds any longer
    free, total = torch.cuda.mem_get_info()
    return max(0, min(free, int(_limit(gpu_share, total)) - torch.cuda.memory_reserved()))


def _limit(gpu_share: float, total: int) -> float:
    """Bytes that PyTorch may take of a GPU of `total`."""
    part = gpu_share * total
    return part if gpu_share >= 1 else max(part - OUTSIDE_BYTES, part / 2)

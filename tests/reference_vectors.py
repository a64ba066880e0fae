"""Reading the vectors made with the authors' own code."""

import functools

import numpy as np
import torch
from timm.models import VisionTransformer


@functools.lru_cache
def _read(path):
    return dict(np.load(path, allow_pickle=False))


class Vectors:
    """One file, read case by case."""

    def __init__(self, shared, file):
        self.data = _read(shared / "reference_vectors" / f"{file}.npz")

    def tensors(self, prefix, dtype):
        found = {
            key.removeprefix(prefix): torch.from_numpy(self.data[key])
            for key in self.data
            if key.startswith(prefix)
        }
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in found.items()}

    def settings(self, case):
        prefix = f"case/{case}/set/"
        return {
            key.removeprefix(prefix): self.data[key].item()
            for key in self.data
            if key.startswith(prefix)
        }

    def vit(self, dtype):
        meta = {key: self.data[f"meta/{key}"].item() for key in ("img", "patch", "dim", "depth")}
        vit = VisionTransformer(
            img_size=meta["img"],
            patch_size=meta["patch"],
            embed_dim=meta["dim"],
            depth=meta["depth"],
            num_heads=self.data["meta/heads"].item(),
            mlp_ratio=self.data["meta/mlp"].item() / meta["dim"],
            num_classes=0,
        )
        vit.load_state_dict(self.tensors("backbone/", torch.float32))  # strictly
        return vit.requires_grad_(False).eval().to(dtype)


def close(name, value, expected, tolerance, at_least):
    """Asserts that they differ by no more than `tolerance` of the largest value."""
    assert value.shape == expected.shape, name
    scale = max(at_least, expected.abs().max().item())
    difference = (value - expected).abs().max().item()
    assert difference <= tolerance * scale, f"{name}: {difference:.2e} of {scale:.2e}"

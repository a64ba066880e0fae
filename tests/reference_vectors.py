"""Reading the vectors made with the authors' own code, and comparing a method with them."""

import functools
from pathlib import Path

import numpy as np
import torch
from plain_form import loss_and_gradients
from timm.models import VisionTransformer

from methods import Recipe, tune


@functools.lru_cache
def _read(path):
    return dict(np.load(path, allow_pickle=False))


COMMITTED = Path(__file__).parent / "authors_values"
"""A case or two of each newer method, so that something is compared where no shared folder is."""


class Vectors:
    """One file, read case by case."""

    def __init__(self, shared, file):
        folder = COMMITTED if shared is None else shared / "reference_vectors"
        self.data = _read(folder / f"{file}.npz")

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

    def expected(self, case, dtype):
        """What the authors' code gave: in float32, or the same code in float64."""
        out = "out64" if dtype == torch.float64 else "out"
        return self.tensors(f"case/{case}/{out}/", dtype)

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


def equals_published(vectors, case, method, names, dtype, *, loose=None):
    """Asserts logits, features, loss and every gradient of a case, and returns our model.

    `names` has our tensor of each of theirs; a list of ours where theirs is one with a leading
    axis. `loose` is the tolerance of gradients where not the README's.
    """
    names = names | {"head/weight": "head.weight", "head/bias": "head.bias"}
    given = vectors.tensors(f"case/{case}/param/", dtype)
    recipe = Recipe(readout=vectors.settings(case)["readout"])
    model = tune(vectors.vit(dtype), method, num_classes=7, recipe=recipe).eval()
    state = {}
    for key, value in given.items():
        if isinstance(names[key], list):
            state |= dict(zip(names[key], value, strict=True))
        else:
            state[names[key]] = value
    model.load_tuned_state(state)
    images, labels = (vectors.tensors(key, dtype)[""] for key in ("image", "label"))
    expected = vectors.expected(case, dtype)

    logits = model(images)
    prefix = model.prefix(images)
    features = prefix if prefix.ndim == 2 else model.features_from(prefix)
    loss, gradients = loss_and_gradients(model, logits, labels)

    tight, usual = (1e-11, 1e-9) if dtype == torch.float64 else (1e-5, 1e-4)
    for name, value in {"logits": logits, "features": features, "loss": loss}.items():
        close(name, value, expected[name], tight, at_least=1.0)
    exact = vectors.tensors(f"case/{case}/out64/grad/", torch.float64)
    largest = max(gradient.abs().max().item() for gradient in exact.values())
    never_trained = model.saved_state().keys() - gradients.keys()
    for key in given:
        name = names[key]
        if key not in exact:
            assert never_trained.issuperset([name] if isinstance(name, str) else name), key
            continue
        is_zero = exact[key].abs().max() < 1e-7 * largest  # but for rounding
        found = (
            torch.stack([gradients[n] for n in name]) if isinstance(name, list) else gradients[name]
        )
        least = largest if is_zero else 1e-6
        close(key, found, expected[f"grad/{key}"], loose or usual, at_least=least)
    return model

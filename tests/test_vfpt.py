"""VFPT: the transform against its definition, and the authors' own values."""

import cmath
import math

import pytest
import torch
from reference_vectors import Vectors, equals_published
from tiny_backbones import shake, tiny_batch, tiny_vit

from methods import METHODS, tune
from methods.vfpt import AXES, real_fourier

VFPT = METHODS["vfpt"]
CASES = """
    deep_alpha_0 deep_alpha_03_odd deep_alpha_05 deep_alpha_05_append deep_alpha_05_odd
    deep_alpha_05_project deep_alpha_05_tokens deep_alpha_05_width deep_alpha_1 deep_alpha_1_tokens
    deep_alpha_1_width mae_deep_alpha_05 mae_shallow_alpha_1 moco_deep_alpha_05 shallow_alpha_0
    shallow_alpha_05 shallow_alpha_05_tokens shallow_alpha_05_width shallow_alpha_1
"""


both_types = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def as_published(vectors, case, dtype):
    settings = vectors.settings(case)
    given = vectors.tensors(f"case/{case}/param/", dtype)
    method = VFPT(
        num_tokens=settings["tokens"],
        alpha=settings["alpha"],
        axes=settings["axes"],
        deep=settings["mode"] == "deep",
        projection=given["prompt"].shape[-1] if "proj/weight" in given else None,
    )
    names = {
        "prompt": "tuning.prompt",
        "proj/weight": "tuning.projection.weight",
        "proj/bias": "tuning.projection.bias",
    }
    model = equals_published(vectors, case, method, names, dtype)
    assert model.tuning.num_transformed == settings["fourier_tokens"]


@both_types
@pytest.mark.parametrize("case", CASES.split())
def test_equals_the_published_code(shared, case, dtype):
    as_published(Vectors(shared, "methods_2024/vfpt"), case, dtype)


@both_types
@pytest.mark.parametrize("case", ["deep_both", "deep_tokens"])
def test_equals_the_published_code_on_values_of_our_own(case, dtype):
    """Half of seven prompts, rounded down. Class PromptedVisionTransformer_Fourier of
    runtsang/VFPT at 17c4030327f849b51744af2ddd68d9eef73d5724, on the ViT of KMnP/vpt at
    7f3942e49fb062818f17fa11ec4b6d371ef962c8, which gives the cases deep_* above to the bit."""
    as_published(Vectors(None, "vfpt"), case, dtype)


def test_every_case_is_tried(shared):
    data = Vectors(shared, "methods_2024/vfpt").data
    assert {k.split("/")[1] for k in data if k.startswith("case/")} == set(CASES.split())


def by_definition(values, axes):
    """Sum over a and b of x[a, b] exp(-2 pi i (a u / m + b v / d)), written out, its real part."""
    m, d = values.shape
    found = torch.empty(m, d, dtype=torch.float64)
    for u in range(m):
        for v in range(d):
            total = 0j
            for a in range(m) if -2 in axes else [u]:
                for b in range(d) if -1 in axes else [v]:
                    turns = (a * u / m if -2 in axes else 0) + (b * v / d if -1 in axes else 0)
                    total += values[a, b].item() * cmath.exp(-2j * math.pi * turns)
            found[u, v] = total.real
    return found


@pytest.mark.parametrize("axes", AXES)
def test_the_transform_is_its_definition(axes: str):
    values = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = real_fourier(values, AXES[axes])
    torch.testing.assert_close(found, by_definition(values, AXES[axes]), rtol=1e-10, atol=1e-10)
    assert not found.allclose(values)


def test_a_share_of_the_prompts_of_each_block_is_transformed():
    vit = tiny_vit(dtype=torch.float64)
    model = tune(vit, VFPT(num_tokens=5, alpha=0.5), num_classes=5)
    for block in range(3):
        prompt, entering = model.tuning.prompt[block].detach(), model.tuning.prompts(block, 6)
        expected = by_definition(prompt[:2], AXES["both"])
        torch.testing.assert_close(entering[:2], expected, rtol=1e-10, atol=1e-10)
        assert entering[2:].equal(prompt[2:])
    shown = torch.stack([model.tuning.prompts(block, 1) for block in range(3)]).detach()
    torch.testing.assert_close(model.tuning.own_prompts(), shown.float())


@pytest.mark.parametrize(("num_tokens", "alpha"), [(5, 0.0), (1, 0.9)])
def test_without_a_whole_prompt_to_transform_it_is_vpt(num_tokens: int, alpha: float):
    images, _ = tiny_batch()
    model = tune(tiny_vit(), VFPT(num_tokens=num_tokens, alpha=alpha), num_classes=5, seed=3)
    plain = tune(tiny_vit(), METHODS["vpt"](num_tokens=num_tokens), num_classes=5, seed=3)
    assert model.eval()(images).equal(plain.eval()(images))


@pytest.mark.parametrize("num_tokens", [10, 100])
def test_the_batches_are_the_released_ones(num_tokens: int):
    recipe = VFPT(num_tokens=num_tokens).recipe()
    assert (recipe.batch_size, recipe.optimizer, recipe.scale_lr) == (64, "sgd", True)


def test_dropout_comes_before_the_transform():
    """A dropped value is a term less in all frequencies, not a frequency that is missing."""
    model = tune(tiny_vit(), VFPT(num_tokens=8, alpha=1.0, dropout=0.5), num_classes=5).train()
    entering = model.tuning.prompts(0, 4)
    assert entering.shape == (4, 8, 24) and not (entering == 0).any()
    back = torch.fft.ifftn(torch.fft.fftn(entering.double(), dim=(-2, -1)), dim=(-2, -1)).real
    assert not entering[0].allclose(entering[1])
    torch.testing.assert_close(back.float(), entering)


def test_prompts_of_bfloat16_are_transformed_in_float32():
    values = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    found = real_fourier(values.bfloat16(), AXES["both"])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, real_fourier(values.bfloat16().float(), AXES["both"]))


def test_it_is_one_program_for_any_number_of_images():
    images, _ = tiny_batch()
    model = shake(tune(tiny_vit(), VFPT(num_tokens=6), num_classes=5)).eval()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},))
        assert program.module()(images).equal(model(images))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, "VFPT: alpha=1.5 must be a number in"),
        ({"axes": "token"}, "VFPT: axes='token' is unknown; did you mean 'tokens'"),
        ({"deep": False, "blocks": "0-1"}, "for deep prompts"),
    ],
)
def test_nonsense_is_refused(options, words: str):
    with pytest.raises(ValueError, match=words):
        VFPT(**options)

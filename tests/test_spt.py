"""SPT's prompts start as tokens of the task: where they come from, and in bounded memory."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_vectors import Vectors
from tiny_backbones import FAMILIES, tiny_batch, tiny_vit

from methods import METHODS, token_statistics, tune
from methods.reservoir import Reservoir
from methods.spt import _windows

SPT = METHODS["spt"]
SAMPLED = {"random": "random", "mean_pooling": "mean_pool", "max_pooling": "max_pool"}
TILED = [
    "deep_max_10_moco_script",
    "deep_max_20",
    "deep_mean_10",
    "deep_mean_20",
    "deep_mean_20_mae_script",
    "deep_random",
    "deep_random_mae_script",
    "deep_random_moco_script",
    "shallow_ignores_type",
    "shallow_random",
]
FIXED = ["deep_max_5_no_remainder", "deep_mean_5_no_remainder", "deep_mean_100_half_image"]
"""Cases whose windows do not tile the image in the released code."""


def from_vectors(shared, case):
    """Prompts that SPT starts from, and the tokens that it may start from."""
    vectors = Vectors(shared, "spt_init")
    settings = vectors.settings(case)
    small = torch.from_numpy(vectors.data["image_small"])
    images = ((small / 255 - 0.5) / 0.5).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    method = SPT(
        num_tokens=settings["tokens"],
        deep=settings["mode"] == "deep",
        init=SAMPLED[settings["sample_type"]],
    )
    model = tune(vectors.vit(torch.float32), method, images, num_classes=2)
    return model.tuning.prompt.detach(), torch.from_numpy(vectors.data["reps"]), settings


def assert_rows_of(prompts, candidates):
    """Every prompt is a candidate of its own block, and no candidate is drawn twice."""
    assert len(prompts) in (1, len(candidates))
    rows = []
    for prompt, allowed in zip(prompts, candidates, strict=False):
        nearest, row = nearest_rows(prompt, allowed)
        assert nearest.max() < 2e-5
        assert len(set(row.tolist())) == len(row)
        rows.append(row.tolist())
    assert all(a != b for i, a in enumerate(rows) for b in rows[:i]), "blocks share a draw"


def nearest_rows(rows, candidates):
    """For each row its distance (of the worst entry) to the nearest candidate, and which it is."""
    return torch.cdist(rows, candidates, p=float("inf")).min(dim=1)


def pooled(reps, windows, sample_type):
    pool = torch.mean if sample_type == "mean_pooling" else torch.amax
    parts = [pool(reps[:, :, start:end], dim=2) for start, end in windows]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("case", TILED)
def test_starts_from_the_tokens_that_the_published_code_starts_from(shared, case):
    prompts, reps, settings = from_vectors(shared, case)
    if settings["sample_type"] == "random":
        candidates = reps.flatten(1, 2)
    else:
        width = 196 // (settings["tokens"] - 1)
        windows = [(start, min(start + width, 196)) for start in range(0, 196, width)]
        candidates = pooled(reps, windows, settings["sample_type"])
    assert_rows_of(prompts, candidates)


@pytest.mark.parametrize("case", FIXED)
def test_windows_of_the_published_code_that_do_not_tile_are_mended(shared, case):
    prompts, reps, settings = from_vectors(shared, case)
    count = settings["tokens"]
    edges = [round(i * 196 / count) for i in range(count + 1)]
    windows = list(pairwise(edges))
    assert_rows_of(prompts, pooled(reps, windows, settings["sample_type"]))


@given(st.integers(1, 400), st.data())
def test_windows_tile_the_image(num_patches, data):
    count = data.draw(st.integers(1, num_patches))
    windows = _windows(num_patches, count)
    seen = [patch for window in windows for patch in range(num_patches)[window]]
    assert seen == list(range(num_patches))
    assert len(windows) == count and all(window.stop > window.start for window in windows)


def test_a_reservoir_is_a_uniform_sample_of_its_stream():
    counts = torch.zeros(30)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        reservoir = Reservoir(6, generator)
        for part in torch.arange(30).split([1, 11, 2, 16]):
            reservoir.put(part[reservoir.draw(len(part))])
        assert len(set(reservoir.kept.tolist())) == 6
        counts[reservoir.kept] += 1
    assert (counts - 400).abs().max() < 4.5 * (400 * 0.8) ** 0.5


def test_statistics_of_a_stream_are_bounded_and_hold_real_tokens():
    vit = tiny_vit()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(50, 3, 32, 32, generator=generator)
    seen = token_statistics(vit, images.split(7), max_tokens=40, max_maps=3)
    assert seen.num_images == 50
    assert [kept.shape for kept in seen.tokens] == [(40, 24)] * 3
    assert [kept.shape for kept in seen.maps] == [(3, 16, 24)] * 3
    everything = token_statistics(vit, images, max_tokens=10_000, max_maps=100)
    assert [kept.shape for kept in everything.tokens] == [(800, 24)] * 3
    for kept, possible in zip(seen.tokens, everything.tokens, strict=True):
        assert nearest_rows(kept, possible)[0].max() < 1e-4
    _, sources = nearest_rows(seen.maps[0].flatten(0, 1), everything.maps[0].flatten(0, 1))
    assert len(set((sources // 16).tolist())) == 3, "a map is one whole image"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_that_enter_each_block(family):
    vit = tiny_vit(family)
    images, _ = tiny_batch()
    entering = [vit.patch_embed(images)]
    for block in vit.blocks[:-1]:
        block.register_forward_hook(lambda module, arguments, output: entering.append(output))
    vit.forward_features(images)
    seen = token_statistics(vit, images)
    assert len(entering) == 3
    for found, tokens in zip(seen.tokens, entering, strict=True):
        assert nearest_rows(found, tokens[:, -16:].flatten(0, 1))[0].max() < 1e-5


def test_statistics_stand_in_for_the_images():
    vit = tiny_vit()
    images, _ = tiny_batch()
    for init in ("random", "mean_pool", "kmeans"):
        method = SPT(num_tokens=5, init=init)
        direct = tune(vit, method, images, num_classes=3, seed=4).tuning.prompt
        seen = token_statistics(vit, images)
        for given_as in (seen, seen, [images]):
            again = tune(vit, method, given_as, num_classes=3, seed=4).tuning.prompt
            assert again.equal(direct), init


def test_prototypes_are_centres_of_the_tokens():
    seen = token_statistics(tiny_vit(), tiny_batch()[0])
    centres = seen.prototypes(1, 6)
    spread = torch.cdist(seen.tokens[1], seen.tokens[1].mean(0, keepdim=True)).square().mean()
    left = torch.cdist(seen.tokens[1], centres).min(dim=1).values.square().mean()
    assert centres.shape == (6, 24) and left < 0.8 * spread
    assert seen.prototypes(1, 6) is centres, "found once per task"


@pytest.mark.parametrize("init", ["mean_pool", "max_pool"])
def test_more_prompts_than_patches_start_from_the_patches_of_several_images(init):
    images, _ = tiny_batch()
    seen = token_statistics(tiny_vit(), images)
    model = tune(tiny_vit(), SPT(num_tokens=40, init=init), seen, num_classes=3)
    for block, prompts in enumerate(model.tuning.prompt.detach()):
        same = prompts[:, None] == seen.maps[block].flatten(0, 1)
        assert same.all(dim=2).any(dim=1).all(), "each is the token of a patch"


@pytest.mark.parametrize(
    ("options", "images", "words"),
    [
        ({}, None, "token_statistics"),
        ({}, [], "no images"),
        ({"num_tokens": 97}, "batch", "only 96 tokens"),
        ({"num_tokens": 97, "init": "mean_pool"}, "batch", "only 96 tokens"),
        ({"num_tokens": 97, "init": "kmeans"}, "batch", "among 96 tokens"),
        ({"init": "kmean"}, None, "did you mean 'kmeans'"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, images, words):
    if images == "batch":
        images, _ = tiny_batch()
    with pytest.raises(ValueError, match=words):
        tune(tiny_vit(), SPT(**options), images, num_classes=3)

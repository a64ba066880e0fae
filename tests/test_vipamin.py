"""VIPAMIN's prompts start at patches they attend to, and where no token of the task is."""

import pytest
import torch
import torch.nn.functional as F
from reference_vectors import Vectors, close
from tiny_backbones import FAMILIES, tiny_batch, tiny_vit
from tiny_swin import tiny_swin

from methods import METHODS, tune
from methods.assemble import restore
from methods.families import family_of
from methods.projections import projections
from methods.prompts import uniform_prompts
from methods.vipamin import _means, matched, orthogonal, seen_images

VIPAMIN = METHODS["vipamin"]
FILE = "methods_2024/vipamin"
NAMES = (
    "k12_lambda_00_code k12_lambda_03_code k12_lambda_03_formula k2_lambda_00_code"
    " k2_lambda_03_code k2_lambda_03_formula k2_lambda_10_code k2_lambda_10_formula"
    " k5_lambda_00_code k5_lambda_03_code k5_lambda_03_formula"
    " k5_lambda_03_formula_one_draw"
)
CASES = NAMES.split()
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_starts_where_the_published_code_starts(shared, mode, dtype):
    vectors = Vectors(shared, FILE)
    vit = vectors.vit(dtype)
    seen = seen_images(vit, vectors.tensors("image", dtype)[""])
    blocks = range(4 if mode == "deep" else 1)
    folder = "out64" if dtype == torch.float64 else "out"
    for case in (f"{mode}_{case}" for case in CASES):
        settings = vectors.settings(case)
        given = vectors.tensors(f"case/{case}/param/", dtype)
        method = VIPAMIN(
            num_tokens=settings["tokens"],
            deep=mode == "deep",
            num_matched=settings["k"],
            orthogonal_share=settings["lambda"],
            form=settings["form"],
        )
        found = method.start(vit, seen, given["prompt"], given["random"], blocks)
        expected = vectors.tensors(f"case/{case}/{folder}/prompt", dtype)[""]
        close(
            case,
            torch.stack(found).to(dtype),
            expected,
            1e-11 if dtype == torch.float64 else 1e-5,
            at_least=1.0,
        )


def test_starts_where_the_published_code_starts_on_values_of_our_own():
    """By iamjaekyun/vipamin at 6fd8df3: what load_match_deep and load_orth_deep compute."""
    vectors, case = Vectors(None, "vipamin"), "deep_k3_lambda_04_code"
    vit = vectors.vit(torch.float64)
    seen = seen_images(vit, vectors.tensors("image", torch.float64)[""])
    given = vectors.tensors(f"case/{case}/param/", torch.float64)
    method = VIPAMIN(num_tokens=4, deep=True, num_matched=3, orthogonal_share=0.4, form="code")
    found = method.start(vit, seen, given["prompt"], given["random"], range(2))
    expected = vectors.expected(case, torch.float64)["prompt"]
    close(case, torch.stack(found), expected, 1e-11, at_least=1.0)


def test_every_case_is_tried(shared):
    data = Vectors(shared, FILE).data
    assert {key.split("/")[1] for key in data if key.startswith("case/")} == {
        f"{mode}_{case}" for mode in ("shallow", "deep") for case in CASES
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("blocks", [None, "0-2", "1-2"], ids=["shallow", "deep", "last_two"])
def test_starts_as_the_paper_says_it(family, blocks):
    """Written out block by block with timm's own modules, for one prompt at a time."""
    vit, (images, _) = tiny_vit(family, torch.float64), tiny_batch(torch.float64)
    method = VIPAMIN(
        num_tokens=3, deep=bool(blocks), blocks=blocks, num_matched=4, orthogonal_share=0.3
    )
    where = {None: range(1), "0-2": range(3), "1-2": range(1, 3)}[blocks]
    random = uniform_prompts(vit, (len(where), 3, 24), torch.Generator().manual_seed(5))
    model = tune(vit, method, images, num_classes=2, seed=5)
    found = model.tuning.prompt.detach()

    prefix = vit.num_prefix_tokens
    prompted = plain = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for block in vit.blocks[: where.start]:
        prompted = plain = block(plain)
    for block, own, start in zip(vit.blocks[where.start :], random, found, strict=False):
        normed = block.norm1(torch.cat([own.expand(6, -1, -1), prompted[:, prefix:]], dim=1))
        keys = block.attn.qkv(normed).chunk(3, dim=-1)[1].unflatten(-1, (3, 8))
        keys = block.attn.k_norm(keys).mean(dim=(0, 2))
        mean = prompted[:, prefix:].mean(dim=0)
        outputs = []
        hook = block.attn.norm.register_forward_pre_hook(lambda _, x, to=outputs: to.append(x[0]))
        plain = block(plain)
        hook.remove()
        basis = torch.linalg.qr(outputs[0].mean(dim=0).T)[0]
        weight = block.attn.qkv.weight[48:]
        bias = 0 if block.attn.qkv.bias is None else block.attn.qkv.bias[48:]
        for index, prompt in enumerate(own):
            similar = F.cosine_similarity(keys[index], keys[3:], dim=-1)
            near = mean[similar.argsort(descending=True)[:4]].mean(dim=0)
            value = weight @ prompt + bias
            new = value - basis @ (basis.T @ value) - bias
            expected = 0.7 * near + 0.3 * torch.linalg.solve(weight, new)
            torch.testing.assert_close(start[index], expected, **EXACT)
        rows = [prompted[:, :prefix], own.expand(6, -1, -1), prompted[:, prefix:]]
        after = block(torch.cat(rows, dim=1))
        prompted = torch.cat([after[:, :prefix], after[:, prefix + 3 :]], dim=1)


@pytest.mark.parametrize("name", ["dinov3", "sapiens2", "eva02_enormous", "beit", "rope_mixed"])
def test_orthogonal_values_are_so_where_positions_are_in_the_scores(name):
    """The values of heads that share some are the same for all: there what can be is solved for."""
    vit, (images, _) = tiny_vit(name, torch.float64), tiny_batch(torch.float64)
    method = VIPAMIN(num_tokens=5, deep=True, num_matched=3, orthogonal_share=1.0)
    start = tune(vit, method, images, num_classes=2).tuning.prompt.detach()
    family, seen = family_of(vit), seen_images(vit, images)
    outputs = []
    for block in family.blocks(vit):
        part = block.attn.norm if hasattr(block.attn, "norm") else block.attn.proj
        part.register_forward_pre_hook(lambda _, x: outputs.append(x[0].mean(dim=0)))
    vit.forward_features(images)
    for block, prompts, mine, theirs in zip(
        family.blocks(vit), start, seen.mean_outputs, outputs, strict=True
    ):
        torch.testing.assert_close(mine, theirs, **EXACT)
        value = projections(family, block, 24)[2]
        inside = torch.linalg.matrix_rank(value.weight) == 24
        values = prompts @ value.weight.T + value.bias
        if inside and len(mine) < 24:
            torch.testing.assert_close(values @ mine.T, torch.zeros(5, len(mine)).double(), **EXACT)
        assert prompts.isfinite().all() and (prompts[0] - prompts[1]).abs().max() > 1e-3
    mixed = VIPAMIN(num_tokens=5, deep=True, num_matched=3)
    assert tune(vit, mixed, images, num_classes=2).tuning.prompt.isfinite().all()


def test_windows_are_refused_with_what_works():
    images, _ = tiny_batch()
    with pytest.raises(ValueError, match="attends in windows; vpt, spt and bpt"):
        tune(tiny_swin(), VIPAMIN(deep=True), images, num_classes=2)


def test_no_token_s_output_has_anything_of_an_orthogonal_prompt_s_value():
    vit, (images, _) = tiny_vit(dtype=torch.float64), tiny_batch(torch.float64)
    model = tune(vit, VIPAMIN(num_tokens=5, deep=True, orthogonal_share=1.0), images, num_classes=2)
    outputs = seen_images(vit, images).mean_outputs
    assert len(outputs) == 3
    for block, output, prompts in zip(vit.blocks, outputs, model.tuning.prompt, strict=True):
        values = prompts @ block.attn.qkv.weight[48:].T + block.attn.qkv.bias[48:]
        assert values.abs().max() > 0.01
        torch.testing.assert_close(values @ output.T, torch.zeros(5, 17).double(), **EXACT)


def test_with_more_tokens_than_width_the_strongest_directions_stand_for_them():
    vit = tiny_vit(dtype=torch.float64, embed_dim=12)
    images, _ = tiny_batch(torch.float64)
    seen = seen_images(vit, images)
    drawn = uniform_prompts(vit, (1, 4, 12), torch.Generator().manual_seed(0))[0]
    block, output = vit.blocks[0], seen.mean_outputs[0]
    code = orthogonal(family_of(vit), block, drawn, output, form="code")
    torch.testing.assert_close(code[0], code[1], **EXACT)  # as published: all prompts alike
    found = orthogonal(family_of(vit), block, drawn, output, form="formula")
    assert (found[0] - found[1]).abs().max() > 0.01
    strongest = torch.linalg.svd(output)[2][:6]
    values = found @ block.attn.qkv.weight[24:].T + block.attn.qkv.bias[24:]
    torch.testing.assert_close(values @ strongest.T, torch.zeros(4, 6).double(), **EXACT)


def test_the_ends_of_the_share_are_the_parts_alone():
    vit, (images, _) = tiny_vit(), tiny_batch()
    seen = seen_images(vit, images)

    def start(**options):
        method = VIPAMIN(num_tokens=4, **options)
        return tune(vit, method, seen, num_classes=2, seed=3).tuning.prompt.detach()

    random = uniform_prompts(vit, (1, 4, 24), torch.Generator().manual_seed(3))
    near = matched(vit, seen.images, random, range(1), 8)[0].float()
    assert start(orthogonal_share=0.0)[0].equal(near)
    new = start(orthogonal_share=1.0)
    assert new.equal(start(orthogonal_share=1.0, num_matched=400)), "no patch is matched"
    half = start(orthogonal_share=0.5)
    torch.testing.assert_close(half, 0.5 * near + 0.5 * new)
    torch.testing.assert_close(half, start(), rtol=0, atol=0)
    assert not half.equal(start(form="code"))


def test_what_was_seen_stands_in_for_the_images_and_is_a_bounded_sample():
    vit, generator = tiny_vit(), torch.Generator().manual_seed(1)
    images = torch.randn(50, 3, 32, 32, generator=generator)
    seen = seen_images(vit, images.split(7), max_images=20)
    assert seen.images.shape == (20, 3, 32, 32)
    assert [tuple(output.shape) for output in seen.mean_outputs] == [(17, 24)] * 3
    known = {tuple(image.flatten()[:5].tolist()) for image in images}
    kept = {tuple(image.flatten()[:5].tolist()) for image in seen.images}
    assert len(kept) == 20 and kept <= known
    assert seen.num_bytes == seen.images.nbytes + 3 * 17 * 24 * 4
    method = VIPAMIN(num_tokens=4, deep=True)
    direct = tune(vit, method, images, num_classes=2, seed=4).tuning.prompt
    again = tune(vit, method, seen_images(vit, [images]), num_classes=2, seed=4).tuning.prompt
    assert again.equal(direct)


def test_a_mean_over_images_in_half_precision_is_neither_rounded_nor_infinite():
    vit, large = tiny_vit().half(), torch.tensor([3000.0, 1.5])
    means = _means(
        vit, torch.ones(40, 3, 32, 32), lambda part: iter([large.half() * part[:, 0, 0, :2]])
    )
    assert means[0].tolist() == large.tolist()


@pytest.mark.parametrize("deep", [False, True])
def test_is_restored_without_images(deep):
    vit, (images, _) = tiny_vit(), tiny_batch()
    method = VIPAMIN(num_tokens=4, deep=deep)
    model = tune(vit, method, images, num_classes=2).eval()
    again = restore(vit, method, model.saved_state(), num_classes=2).eval()
    assert again(images).equal(model(images))
    assert again.method == method


@pytest.mark.parametrize(
    ("options", "images", "words"),
    [
        ({}, None, "seen_images"),
        ({}, [], "no images"),
        ({"num_matched": 16}, "batch", "num_matched=16, but 16 patches enter block 0"),
        ({"orthogonal_share": 1.5}, None, r"must be a number in \[0, 1\]"),
        ({"form": "codes"}, None, "did you mean 'code'"),
    ],
)
def test_what_cannot_be_done_is_said(options, images, words):
    if images == "batch":
        images, _ = tiny_batch()
    with pytest.raises(ValueError, match=words):
        tune(tiny_vit(), VIPAMIN(**options), images, num_classes=3)

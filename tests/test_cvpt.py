"""CVPT: its definition, the form that absorbs weights into prompts, and the authors' own values."""

import math

import pytest
import torch
from plain_form import plain_logits
from reference_vectors import Vectors, equals_published
from timm.models import VisionTransformer
from tiny_backbones import FAMILIES, OTHERS, shake, tiny_batch, tiny_vit
from tiny_swin import VERSIONS, tiny_swin
from torch.utils.flop_counter import FlopCounterMode

from methods import METHODS, tune
from methods.cvpt import _absorbing_pays, absorbed_attention, cross_attention, plain_attention
from methods.families import family_of

CVPT = METHODS["cvpt"]
EXACT = {"rtol": 1e-10, "atol": 1e-10}
CASES = ["init_values", "large_values", "tokens_1", "tokens_10", "tokens_3"]
OTHER_PLACES = {"insert_1", "insert_2", "insert_4", "insert_5"}
"""Cases that ask the prompts at another place of the block, which the released script does not."""

both_types = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def as_published(vectors, case, dtype):
    method = CVPT(num_tokens=vectors.settings(case)["tokens"])
    return equals_published(vectors, case, method, {"prompt": "tuning.prompt"}, dtype)


@both_types
@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_code(shared, case, dtype):
    as_published(Vectors(shared, "methods_2024/cvpt"), case, dtype)


@both_types
@pytest.mark.parametrize("case", ["nine_tokens", "two_tokens"])
def test_equals_the_published_code_on_values_of_our_own(case, dtype):
    as_published(Vectors(None, "cvpt"), case, dtype)


def test_every_case_is_tried_or_known_to_be_another_method(shared):
    data = Vectors(shared, "methods_2024/cvpt").data
    assert {k.split("/")[1] for k in data if k.startswith("case/")} == {*CASES, *OTHER_PLACES}


# Written out


def asked_by_hand(block, x, p):
    """Softmax attention of x (B, T, d) to p (P, d) with the weights of a plain block."""
    attn, c = block.attn, block.attn.head_dim
    q_weight, k_weight, v_weight = attn.qkv.weight.chunk(3)
    q_bias, k_bias, v_bias = attn.qkv.bias.chunk(3)
    q, k, v = x @ q_weight.T + q_bias, p @ k_weight.T + k_bias, p @ v_weight.T + v_bias
    said = []
    for head in range(attn.num_heads):
        own = slice(head * c, head * c + c)
        scores = q[..., own] @ k[:, own].T / c**0.5
        said.append(scores.softmax(-1) @ v[:, own])
    return torch.cat(said, dim=-1) @ attn.proj.weight.T + attn.proj.bias


def test_tokens_ask_the_prompts_between_attention_and_mlp():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = shake(tune(vit, CVPT(num_tokens=4), num_classes=5)).eval()
    x = vit._pos_embed(vit.patch_embed(images))
    for block, prompt in zip(vit.blocks, model.tuning.prompt, strict=True):
        x = x + block.attn(block.norm1(x))
        x = x + asked_by_hand(block, x, prompt)
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(model(images), model.head(vit.norm(x)[:, 0]), **EXACT)


@pytest.mark.parametrize("shape", [(4, 24), (6, 4, 24)], ids=["shared", "per image"])
def test_absorbed_weights_change_nothing(shape):
    generator = torch.Generator().manual_seed(0)
    block = tiny_vit(dtype=torch.float64).blocks[1]
    family = family_of(tiny_vit())
    x, cotangent = torch.randn(2, 6, 17, 24, generator=generator, dtype=torch.float64)
    p = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = {}
    for form in ("absorbed", "plain"):
        asking, asked = x.clone().requires_grad_(), p.clone().requires_grad_()
        if form == "absorbed":
            out = absorbed_attention(family, block, family.attention_maps(block), asking, asked)
        else:
            out = plain_attention(family, block, asking, asked)
        found[form] = (out, *torch.autograd.grad((out * cotangent).sum(), (asking, asked)))
    torch.testing.assert_close(found["absorbed"], found["plain"], **EXACT)
    prompts = p.expand(6, -1, -1) if p.ndim == 2 else p
    rows = [asked_by_hand(block, *pair) for pair in zip(x, prompts, strict=True)]
    torch.testing.assert_close(found["plain"][0], torch.stack(rows), **EXACT)


NOT_PLAIN = {"normed", "sapiens2", "eva02"}
"""Families that norm queries, keys or the attention's output, or share keys between heads."""


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_weights_are_absorbed_wherever_scores_are_plain_products(name):
    vit = tiny_vit(name, torch.float64)
    family, block = family_of(vit), vit.blocks[1]
    maps = family.attention_maps(block)
    assert (maps is None) == (name in NOT_PLAIN)
    if maps is not None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 17, 24, generator=generator, dtype=torch.float64)
        p = torch.randn(4, 24, generator=generator, dtype=torch.float64)
        absorbed = absorbed_attention(family, block, maps, x, p)
        torch.testing.assert_close(absorbed, plain_attention(family, block, x, p), **EXACT)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_ask_the_prompts_at_the_same_place(name):
    images, _ = tiny_batch(torch.float64)
    model = shake(tune(tiny_vit(name, torch.float64), CVPT(num_tokens=4), num_classes=5)).eval()
    torch.testing.assert_close(model(images), plain_logits(model, images), **EXACT)


@pytest.mark.parametrize("version", VERSIONS)
def test_windows_and_stages_leave_the_asking_as_it_is(version):
    """Written out over the stages of a Swin, whose second version scores by cosines."""
    images, _ = tiny_batch(torch.float64)
    vit = tiny_swin(version, torch.float64)
    model = shake(tune(vit, CVPT(num_tokens=3), num_classes=5)).eval()
    family, prompts = family_of(vit), iter(model.tuning.prompt)
    x = vit.patch_embed(images)
    for stage in vit.layers:
        x = stage.downsample(x)
        for block in stage.blocks:
            if version == "swin":
                x = x + block._attn(block.norm1(x))
            else:
                x = x + block.norm1(block._attn(x))
            flat, prompt = x.flatten(1, 2), next(prompts)
            attn = block.attn
            q_weight, k_weight, v_weight = attn.qkv.weight.chunk(3)
            biases = attn.qkv.bias.chunk(3) if version == "swin" else (attn.q_bias, 0, attn.v_bias)
            q, k, v = (
                (t @ weight.T + bias).unflatten(-1, (attn.num_heads, -1)).transpose(-3, -2)
                for t, weight, bias in zip(
                    (flat, prompt, prompt), (q_weight, k_weight, v_weight), biases, strict=True
                )
            )
            if version == "swin":
                scores = q @ k.mT * attn.scale
            else:
                scale = attn.logit_scale.clamp(max=math.log(100)).exp()
                scores = torch.cosine_similarity(q.unsqueeze(-2), k.unsqueeze(-3), dim=-1) * scale
            said = (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)
            x = x + attn.proj(said).view_as(x)
            x = x + (block.mlp(block.norm2(x)) if version == "swin" else block.norm2(block.mlp(x)))
    assert {tuple(p.shape) for p in model.tuning.prompt} == {
        (3, s.width) for s in family.sites(vit)
    }
    features = vit.norm(x).mean(dim=(1, 2))
    torch.testing.assert_close(model(images), model.head(features), **EXACT)


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_are_absorbed_where_no_cosine_is_taken(version):
    vit = tiny_swin(version, torch.float64)
    family = family_of(vit)
    for block, site in zip(family.blocks(vit), family.sites(vit), strict=True):
        maps = family.attention_maps(block)
        assert (maps is None) == (version == "swinv2")
        if maps is not None:
            x, p = torch.randn(2, 3, 5, site.width, dtype=torch.float64)
            absorbed = absorbed_attention(family, block, maps, x, p)
            torch.testing.assert_close(absorbed, plain_attention(family, block, x, p), **EXACT)


# What it costs


def flops(action):
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def vit_base():
    with torch.device("meta"):
        return VisionTransformer(depth=1, num_classes=0).requires_grad_(False).eval()


def test_ten_prompts_cost_three_percent_of_a_block(vit_base):
    block = vit_base.blocks[0]
    x, p = (torch.empty(shape, device="meta") for shape in ((64, 197, 768), (10, 768)))
    family = family_of(vit_base)
    whole = flops(lambda: block(x))
    assert flops(lambda: cross_attention(family, block, x, p)) / whole < 0.03
    assert flops(lambda: plain_attention(family, block, x, p)) / whole > 0.15


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 197])
@pytest.mark.parametrize("num_prompts", [1, 10, 63, 64, 70, 200])
def test_the_cheaper_form_is_taken(vit_base, num_prompts, num_tokens, per_image):
    """For a batch so large that what is done once per step does not count."""
    batch = 20_000
    family, block = family_of(vit_base), vit_base.blocks[0]
    maps = family.attention_maps(block)
    shape = (batch, num_prompts, 768) if per_image else (num_prompts, 768)
    p = torch.empty(shape, device="meta")
    x = torch.empty(batch, num_tokens, 768, device="meta")
    absorbed = flops(lambda: absorbed_attention(family, block, maps, x, p))
    # Shared keys and values are counted once by the one, and for every image by the other.
    plain = flops(lambda: plain_attention(family, block, x, p))
    assert _absorbing_pays(maps, num_tokens, p) == (absorbed < plain)


# The start


def test_prompts_start_within_xavier_s_bound_over_blocks_and_prompts():
    prompt = tune(tiny_vit(), CVPT(num_tokens=400), num_classes=5).tuning.prompt
    bound = (6 / ((400 + 3) * 24)) ** 0.5
    assert prompt.abs().max() <= bound
    assert prompt.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_every_image_asks_prompts_of_its_own_dropout():
    tuning = tune(tiny_vit(), CVPT(dropout=0.5), num_classes=5).tuning
    tokens = torch.ones(1, 17, 24).expand(2, -1, -1)
    same, other = tuning.train().before_mlp(0, tokens)
    assert not same.allclose(other)
    same, other = tuning.eval().before_mlp(0, tokens)
    assert same.allclose(other)


def test_the_recipe_is_the_released_one():
    recipe = CVPT().recipe()
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", 1e-3, 0.05)
    assert (recipe.batch_size, recipe.drop_path, recipe.final_lr) == (32, 0.1, 1e-5)
    assert not recipe.scale_lr and CVPT().dropout == 0.1

"""What single methods promise beyond the contract: limits, starts, identities, sizes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from reference_vectors import Vectors, close
from timm.models import VisionTransformer
from tiny_backbones import shake, tiny_batch, tiny_vit
from torch import nn

from methods import METHODS, tune
from methods.apt import InformationDiffusion, split_attention

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def tuned(name, *, vit=None, recipe=None, **options):
    """A method on a tiny ViT in float64, in evaluation mode."""
    method = METHODS[name](**options)
    vit = tiny_vit(dtype=torch.float64) if vit is None else vit
    images, _ = tiny_batch(torch.float64)
    recipe = dataclasses.replace(method.recipe(), **(recipe or {}))
    return tune(vit, method, images, num_classes=5, recipe=recipe).eval()


def with_same(model, other, *names):
    """`model` with tuned tensors of `other`."""
    state = dict(model.tuned_state()) | {name: other.tuned_state()[name] for name in names}
    model.load_tuned_state({k: v.clone() for k, v in state.items()})
    return model


# Starts


def test_a_linear_probe_reads_the_features_of_the_backbone():
    images, _ = tiny_batch(torch.float64)
    for family in ("supervised", "registers", "clip", "siglip", "gap"):
        vit = tiny_vit(family, torch.float64)
        torch.testing.assert_close(tuned("linear", vit=vit).prefix(images), vit(images), **EXACT)


@pytest.mark.parametrize("name", ["full", "partial", "bias", "lora"])
def test_starts_as_the_frozen_backbone(name):
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model, linear = tuned(name, vit=vit), tuned("linear", vit=vit)
    with_same(linear, model, "head.weight", "head.bias")
    torch.testing.assert_close(model(images), linear(images), **EXACT)


def test_prompts_start_uniform_within_the_bound_of_a_patch_embedding():
    for options, width in (({}, 24), ({"projection": 8}, 8)):
        prompt = tuned("vpt", num_tokens=400, **options).tuning.prompt
        bound = (6 / (3 * 8 * 8 + width)) ** 0.5
        assert prompt.abs().max() <= bound
        assert prompt.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not prompt[0].equal(prompt[1]), "every block has its own"


def test_head_starts():
    prior = tuned("vpt").head
    assert prior.bias.unique().item() == pytest.approx(-4.59512, abs=1e-5)
    wide = tune(tiny_vit(), METHODS["vpt"](), num_classes=2000).head
    assert wide.weight.std().item() == pytest.approx((2 / 2000) ** 0.5, rel=0.02)
    other = tuned("vpt", recipe={"head_init": "zero_bias", "head_init_std": 0.5}).head
    assert other.bias.abs().max() == 0 and 0.3 < other.weight.std() < 0.7


def test_an_adapter_starts_close_to_the_identity_and_learns_everywhere():
    images, labels = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    for position in ("post", "mlp"):
        model = tuned("adapter", vit=vit, position=position)
        linear = with_same(tuned("linear", vit=vit), model, "head.weight", "head.bias")
        torch.testing.assert_close(model(images), linear(images), rtol=0, atol=0.05)
        F.cross_entropy(model(images), labels).backward()
        still = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
        assert not still, "the broken start: gradients that stay zero"


# Dropout of prompts


def test_prompt_dropout_draws_per_image_and_keeps_the_mean():
    model = tuned("vpt", num_tokens=50, dropout=0.3).train()
    torch.manual_seed(0)
    prompts = model.tuning.prompts(0, 40)
    assert prompts.shape == (40, 50, 24)
    assert not prompts[0].eq(0).equal(prompts[1].eq(0))
    assert (prompts == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    kept = model.tuning.prompt[0].expand_as(prompts)[prompts != 0]
    torch.testing.assert_close(prompts[prompts != 0], kept / 0.7)


# Readouts


def test_mean_readout_reads_prompts_and_leaves_out_the_class_token():
    """Written out by hand for VPT-Deep, against both the walk and the plain form."""
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = tuned("vpt", vit=vit, num_tokens=4, recipe={"readout": "mean_no_cls"})
    tokens = vit._pos_embed(vit.patch_embed(images))
    for block, prompt in zip(vit.blocks, model.tuning.prompt, strict=True):
        tokens = torch.cat([tokens[:, :1], prompt.expand(6, -1, -1), tokens[:, -16:]], dim=1)
        tokens = block(tokens)
    features = vit.norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(model(images), model.head(features), **EXACT)
    cls = tuned("vpt", vit=vit, num_tokens=4, recipe={"readout": "cls"})
    with_same(cls, model, *model.tuned_state())
    torch.testing.assert_close(cls(images), model.head(vit.norm(tokens)[:, 0]), **EXACT)


def test_the_final_norm_may_be_fresh_or_learn():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    before = vit.norm.weight.clone()
    fresh = tuned("linear", vit=vit, recipe={"final_norm": "fresh_frozen"})
    kept = tuned("linear", vit=vit)
    expected = F.layer_norm(vit.blocks(vit._pos_embed(vit.patch_embed(images)))[:, 0], (24,))
    torch.testing.assert_close(fresh.prefix(images), expected, rtol=1e-4, atol=1e-4)
    assert fresh.prefix_key != kept.prefix_key
    learns = tuned("linear", vit=vit, recipe={"final_norm": "trainable"})
    assert set(learns.tuned_state()) == {*kept.tuned_state(), "vit.norm.weight", "vit.norm.bias"}
    with_same(learns, kept, *kept.tuned_state())
    torch.testing.assert_close(learns(images), kept(images), **EXACT)
    assert vit.norm.weight.equal(before) and not vit.norm.weight.requires_grad


def test_stochastic_depth_acts_in_training_only_and_leaves_nothing_constant():
    images, _ = tiny_batch(torch.float64)
    model = tuned("partial", recipe={"drop_path": 0.5})
    assert model.prefix_key == ("blocks", 0)
    assert tuned("partial").prefix_key == ("blocks", 2)
    plain = with_same(tuned("partial"), model, *model.tuned_state())
    torch.testing.assert_close(model(images), plain(images), **EXACT)
    model.train()
    assert not model(images).equal(model(images))


@pytest.mark.parametrize(("family", "norm"), [("supervised", "norm"), ("mae", "fc_norm")])
def test_partial_tuning_trains_the_last_blocks_and_the_norm_before_the_head(family, norm):
    model = tuned("partial", vit=tiny_vit(family, torch.float64), num_blocks=2)
    parts = {".".join(name.split(".")[:3]) for name in model.tuned_state() if "blocks" in name}
    assert parts == {"vit.blocks.1", "vit.blocks.2"}
    assert f"vit.{norm}.weight" in model.tuned_state()


# GateVPT and LSPT


def gated(vit, logits, **options):
    """GateVPT with the given gate logits in all blocks but the last."""
    model = tuned("gatevpt", vit=vit, num_tokens=4, learn_temperature=False, **options)
    model.tuning.gate.data.fill_(logits)
    return model


def test_open_gates_are_vpt_shallow():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = shake(gated(vit, 0.0))
    model.tuning.gate.data.fill_(60.0)
    shallow = tuned("vpt", vit=vit, num_tokens=4, deep=False)
    with_same(shallow, model, "tuning.prompt", "head.weight", "head.bias")
    torch.testing.assert_close(model(images), shallow(images), **EXACT)


def test_shut_gates_are_vpt_deep_with_one_set_of_prompts():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = shake(gated(vit, 0.0))
    model.tuning.gate.data.fill_(-60.0)
    deep = tuned("vpt", vit=vit, num_tokens=4)
    with_same(deep, model, "head.weight", "head.bias")
    deep.tuning.prompt.data.copy_(model.tuning.prompt.expand(3, -1, -1))
    torch.testing.assert_close(model(images), deep(images), **EXACT)


def test_gates_start_nearly_shut():
    model = tuned("gatevpt", gate_init=5.0)
    assert model.tuning.gate.sigmoid().tolist() == pytest.approx([6.7e-3] * 2, rel=0.01)
    assert len(tuned("gatevpt", gating_depth=1).tuning.gate) == 1
    assert "tuning.gate" not in tuned("gatevpt", gating_depth=0).tuned_state()
    for name in ("gatevpt", "lspt"):
        with pytest.raises(ValueError, match=r"gating_depth=3.*at most 2"):
            tuned(name, gating_depth=3)


def test_a_temperature_outside_its_range_comes_back_and_keeps_its_gradient():
    images, labels = tiny_batch(torch.float64)
    model = tuned("gatevpt")
    model.tuning.temperatures.data = torch.tensor([0.001, 50.0, 1.0], dtype=torch.float64)
    first, second = model(images), model(images)
    (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)).backward()
    assert model.tuning.temperatures.tolist() == [0.01, 10.0, 1.0]
    assert model.tuning.temperatures.grad.abs().min() > 0


def test_lspt_that_adds_nothing_is_vpt_shallow():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    shallow = tuned("vpt", vit=vit, num_tokens=10, deep=False)
    for options in ({"spatial": "none"}, {"gating_depth": 0}):
        model = tuned("lspt", vit=vit, **options)
        with_same(shallow, model, "tuning.prompt", "head.weight", "head.bias")
        torch.testing.assert_close(model(images), shallow(images), **EXACT)


def test_lspt_starts_from_its_spatial_coding():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    both, spatial = tuned("lspt", vit=vit), tuned("lspt", vit=vit, temporal=False)
    with_same(spatial, both, "tuning.prompt", "head.weight", "head.bias")
    torch.testing.assert_close(both(images), spatial(images), **EXACT)


@pytest.mark.parametrize("memory_init", ["zero", "prompt"])
def test_lspt_as_the_reconstruction_says_it(memory_init):
    """Written out with torch's LSTM over the blocks, in the plain token form."""
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = tuned("lspt", vit=vit, num_tokens=3, hidden=5, memory_init=memory_init)
    shake(model)
    memory = model.tuning.memory
    lstm = nn.LSTM(5, 5, dtype=torch.float64)
    for name, weight in memory.cell.named_parameters():
        getattr(lstm, f"{name}_l0").data.copy_(weight)
    tokens = vit._pos_embed(vit.patch_embed(images))
    first = model.tuning.prompt.expand(6, -1, -1)
    tokens = torch.cat([tokens[:, :1], first, tokens[:, 1:]], dim=1)
    narrow = memory.into(first).reshape(1, 18, 5)
    state = (narrow if memory_init == "prompt" else torch.zeros_like(narrow),)
    state += (torch.zeros_like(narrow),)
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
        coded = tokens[:, 1:4] + tokens[:, 4:].mean(dim=1, keepdim=True)
        said, state = lstm(memory.into(coded).reshape(1, 18, 5), state)
        coded = coded + memory.out(said).reshape(6, 3, 24)
        tokens = torch.cat([tokens[:, :1], coded, tokens[:, 4:]], dim=1)
    features = vit.norm(vit.blocks[-1](tokens))[:, 0]
    torch.testing.assert_close(model(images), model.head(features), **EXACT)


# APT


@pytest.mark.parametrize("case", ["module", "module_init", "module_one_token", "module_rank_16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_apt_s_module_is_the_published_one(shared, case, dtype):
    vectors = Vectors(shared, "apt_module")
    settings = vectors.settings(case)
    given = vectors.tensors(f"case/{case}/param/", dtype)
    out = "out64" if dtype == torch.float64 else "out"
    expected = vectors.tensors(f"case/{case}/{out}/", dtype)
    cotangent = vectors.tensors(f"case/{case}/cotangent", dtype)[""]
    method = METHODS["apt"](num_tokens=settings["tokens"], rank=settings["rank"])
    x, u = (given.pop(key).requires_grad_() for key in ("x", "u"))
    module = InformationDiffusion(method, x.shape[-1], dtype, torch.Generator())
    module.load_state_dict(given)
    output = module(x, u)
    (output * cotangent).sum().backward()
    tight, loose = (1e-11, 1e-9) if dtype == torch.float64 else (1e-5, 1e-4)
    close("output", output, expected["output"], tight, at_least=1.0)
    for key, tensor in {**dict(module.named_parameters()), "x": x, "u": u}.items():
        close(key, tensor.grad, expected[f"grad/{key}"], loose, at_least=1e-6)


def test_apt_without_tokens_and_scale_is_the_backbone():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = tuned("apt", vit=vit)
    for module in model.tuning.diffusion:
        module.tokens.data.zero_()
    linear = with_same(tuned("linear", vit=vit), model, "head.weight", "head.bias")
    torch.testing.assert_close(model(images), linear(images), **EXACT)


def test_apt_drops_scores_in_training_only():
    images, _ = tiny_batch(torch.float64)
    model = shake(tuned("apt", dropout=0.5))
    assert model(images).equal(model(images))
    model.train()
    assert not model(images).equal(model(images))


def test_attention_with_prompts_splits_exactly_into_two():
    """The identity that APT approximates: joint attention is a mixture with a share per query."""
    generator = torch.Generator().manual_seed(0)

    def draw(rows):
        return torch.randn(2, 3, rows, 8, generator=generator, dtype=torch.float64)

    q, k, v, prompt_k, prompt_v = draw(7), draw(9), draw(9), draw(4), draw(4)
    joint = F.scaled_dot_product_attention(
        q, torch.cat([k, prompt_k], dim=2), torch.cat([v, prompt_v], dim=2), scale=0.7
    )
    tokens, prompts, share = split_attention(q, k, v, prompt_k, prompt_v, scale=0.7)
    torch.testing.assert_close((1 - share) * tokens + share * prompts, joint, **EXACT)
    assert share.min() > 0 and share.max() < 1


# LoRA


def test_lora_equals_merged_weights():
    images, _ = tiny_batch(torch.float64)
    vit = tiny_vit(dtype=torch.float64)
    model = shake(tuned("lora", vit=vit, rank=2, alpha=6.0))
    merged = tiny_vit(dtype=torch.float64)
    for block, down, up in zip(merged.blocks, model.tuning.down, model.tuning.up, strict=True):
        block.attn.qkv.weight.data[:24] += 3.0 * up[0] @ down[0]
        block.attn.qkv.weight.data[48:] += 3.0 * up[1] @ down[1]
    torch.testing.assert_close(model(images), model.head(merged(images)), **EXACT)


# Sizes, as the papers and the authors' logs have them, without 769 per class for the head


@pytest.fixture(scope="module")
def vit_base():
    with torch.device("meta"):
        return VisionTransformer(num_classes=0).requires_grad_(False).eval()


SIZES = [
    ("linear", {}, 0),
    ("full", {}, 85_798_656),
    ("partial", {"num_blocks": 1}, 7_089_408),
    ("bias", {}, 102_912),
    ("vpt", {"num_tokens": 50, "deep": False}, 38_400),
    ("vpt", {"num_tokens": 50}, 460_800),
    ("vpt", {"num_tokens": 100}, 926_214 - 769 * 6),
    ("vpt", {"num_tokens": 100}, 929_290 - 769 * 10),
    ("vpt", {"num_tokens": 5}, 351_373 - 769 * 397),
    ("spt", {"num_tokens": 100, "deep": False, "init": "uniform"}, 76_800),
    ("spt", {"num_tokens": 20, "init": "uniform"}, 184_320),
    ("vipamin", {"num_tokens": 100, "deep": False}, 76_800),
    ("vipamin", {"num_tokens": 20, "deep": True}, 184_320),
    ("bpt", {"num_tokens": 100, "channels": 75, "deep": False}, 65_100),
    ("bpt", {"num_tokens": 50, "channels": 50}, 490_800),
    ("bpt", {"num_tokens": 50, "channels": 50, "tuned_bases": 4}, 30_000 + 153_600),
    ("bpt", {"num_tokens": 50, "channels": 50, "whiten": "fixed"}, 30_000),
    ("gatevpt", {"num_tokens": 100}, 76_823),
    ("gatevpt", {"num_tokens": 1}, 791),
    ("lspt", {"num_tokens": 100, "hidden": 64}, 131_584 + 76_800),
    ("lspt", {"num_tokens": 100, "hidden": 96}, 221_952 + 76_800),
    ("lspt", {"num_tokens": 100, "hidden": 128}, 328_704 + 76_800),
    ("lspt", {"num_tokens": 100, "hidden": 768}, 4_724_736 + 76_800),
    ("apt", {"num_tokens": 200}, 1_916_940),
    ("apt", {"num_tokens": 50}, 534_540),
    ("apt", {"num_tokens": 10}, 165_900),
    ("vfpt", {"num_tokens": 50}, 460_800),
    ("cvpt", {"num_tokens": 10}, 12 * 10 * 768),
    ("cvpt", {"num_tokens": 200}, 1_843_200),
    ("vapt", {}, 7_680 + 11 * (2 * 768 + 2 * 2 + 10 * (13 * 13 + 1)) + 2 * 8 * 768),
    ("vapt", {"kernel": None, "plain_blocks": 2}, 15_360 + 10 * (1_536 + 10 * 197) + 12_288),
    ("lora", {"rank": 8}, 294_912),
    ("adapter", {"bottleneck": 8}, 165_984),
    ("adapter", {"bottleneck": 96, "channel_scale": False}, 1_779_840),
    ("adapter", {"bottleneck": 12, "channel_scale": False}, 230_544),
    ("adapter", {"bottleneck": 3, "channel_scale": False}, 64_548),
]


@pytest.mark.parametrize(("name", "options", "expected"), SIZES)
def test_trains_as_many_parameters_as_published(vit_base, name, options, expected):
    model = tune(vit_base, METHODS[name](**options).without_images(), num_classes=10)
    assert model.num_tuned_parameters - 769 * 10 == expected


def test_spt_deep_stays_small(vit_base):
    model = tune(vit_base, METHODS["spt"](init="uniform"), num_classes=100)
    prompts = model.num_tuned_parameters - 769 * 100
    assert prompts / sum(p.numel() for p in vit_base.parameters()) < 0.004


def test_every_method_has_a_published_size():
    assert {name for name, *_ in SIZES} == set(METHODS)


# Recipes


def test_published_recipes():
    recipe = {name: METHODS[name]().recipe() for name in METHODS}
    assert recipe["vpt"].batch_size == 128
    assert METHODS["vpt"](num_tokens=100).recipe().batch_size == 64
    for name in ("linear", "vpt", "gatevpt"):
        assert (recipe[name].optimizer, recipe[name].momentum) == ("sgd", 0.9)
        assert (recipe[name].epochs, recipe[name].warmup_epochs) == (100, 10)
        assert recipe[name].schedule_step == "epoch" and recipe[name].head_init == "prior"
    assert recipe["vpt"].scale_lr and not recipe["gatevpt"].scale_lr
    assert recipe["gatevpt"].weight_decay == 0
    for name in ("full", "partial", "bias"):
        assert recipe[name].optimizer == "adamw" and recipe[name].eps == 1e-6
        assert recipe[name].weight_decay == 0.01
    spt = recipe["spt"]
    assert (spt.optimizer, spt.schedule_step, spt.final_lr) == ("adamw", "iteration", 1e-8)
    assert spt.drop_last and not spt.scale_lr and spt.batch_size == 32
    assert (recipe["apt"].beta1, recipe["apt"].beta2) == (0.9, 0.98)
    assert METHODS["lspt"].reconstruction
    assert [name for name in METHODS if METHODS[name].reconstruction] == ["lspt"]

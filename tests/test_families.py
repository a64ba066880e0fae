"""What every family of backbones promises, on tiny networks of timm with rotations or biases."""

from typing import Any

import pytest
import torch
from plain_form import loss_and_gradients, plain_logits
from timm.models import NaFlexVit, VisionTransformer
from timm.models.vision_transformer import ParallelThingsBlock
from tiny_backbones import OTHERS, SIZE, shake, tiny_batch, tiny_vit
from torch import nn
from torch.nn.functional import cross_entropy

from methods import METHODS, Linear, Recipe, TunedViT, build_optimizer, tune
from methods.agreement import check_agreement
from methods.families import FAMILIES, check_supported, family_of

every_network = pytest.mark.parametrize("name", OTHERS)


def tuned(name: str, method: str = "vpt", *, dtype: Any = torch.float64, **options: Any):
    recipe = options.pop("recipe", None)
    images, labels = tiny_batch(dtype)
    vit, tuning = tiny_vit(name, dtype), METHODS[method](**options)
    model = tune(vit, tuning, images, num_classes=5, recipe=recipe)
    return shake(model), images, labels


@every_network
def test_without_prompts_the_features_are_timms(name: str):
    vit, (images, _) = tiny_vit(name, torch.float64), tiny_batch(torch.float64)
    with torch.no_grad():
        expected = vit.forward_head(vit.forward_features(images), pre_logits=True)
        found = tune(vit, Linear(), num_classes=5).prefix(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_network_in_training_mode_is_taken_as_it_is_in_evaluation():
    """timm hands them over so, and the small network behind relative positions has dropout."""
    vit, (images, _) = tiny_vit("relpos"), tiny_batch()
    expected = tune(vit, Linear(), num_classes=5).prefix(images)
    assert tune(vit.train(), Linear(), num_classes=5).prefix(images).equal(expected)
    assert vit.training


CASES = [(name, deep, "auto") for name in OTHERS for deep in (True, False)]
CASES += [
    (name, deep, readout)
    for name in ("dinov3", "perception_core", "beit")
    for deep in (True, False)
    for readout in ("mean_no_cls", "img_pool", "prompt_pool", "cls", "cls_mean")
]


@pytest.mark.parametrize(("name", "deep", "readout"), CASES)
def test_prompts_as_keys_and_values_are_prompts_as_rows(name: str, deep: bool, readout: str):
    recipe = Recipe(readout=readout)
    model, images, labels = tuned(name, deep=deep, recipe=recipe, num_tokens=5)
    fast, plain = model(images), plain_logits(model, images)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    for one, other in zip(*(gradients(model, out, labels) for out in (fast, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    if readout != "prompt_pool":
        without = tune(tiny_vit(name, torch.float64), Linear(), num_classes=5, recipe=recipe)
        without.head = model.head
        assert (fast - without(images)).abs().max() > 1e-6, "prompts have no effect"


def gradients(model: TunedViT, logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    return list(loss_and_gradients(model, logits, labels)[1].values())


@every_network
@pytest.mark.parametrize("method", ["vpt", "gatevpt", "partial"])
def test_prefix_and_rest_are_the_whole(name: str, method: str):
    model, images, labels = tuned(name, method, dtype=torch.float32)
    model.eval()
    prefix = model.prefix(images)
    torch.testing.assert_close(model.forward_from(prefix), model(images), rtol=0, atol=0)
    cross_entropy(model.train()(images), labels).backward()
    build_optimizer(model, Recipe(lr=0.1)).step()
    torch.testing.assert_close(model.prefix(images), prefix, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dinov3", "sapiens2", "perception_core", "rope_mixed", "beit"])
def test_it_is_exported_as_one_program_for_any_number_of_images(name: str):
    model, images, _ = tuned(name, dtype=torch.float32)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(
            model.eval(), (images[:2],), dynamic_shapes=({0: batch},)
        ).module()
        torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov3", "sapiens2", "rope_mixed", "beit"])
def test_works_under_autocast_and_with_a_half_precision_backbone(name: str):
    model, images, labels = tuned(name, dtype=torch.float32)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(images)
        cross_entropy(cast, labels).backward()
    torch.testing.assert_close(cast.float(), exact, rtol=0.1, atol=0.2)
    half = tune(tiny_vit(name).bfloat16(), METHODS["vpt"](), num_classes=5)
    half(images.bfloat16()).sum().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.grad is not None)


# Positions


@pytest.mark.parametrize("name", ["rope_mixed", "beit", "relpos"])
def test_positions_that_learn_are_computed_anew_in_every_pass(name: str):
    model, images, labels = tuned(name, "full", dtype=torch.float32)
    weights = list(model.family.position_weights(model.vit))
    cross_entropy(model(images), labels).backward()
    assert weights and all(w.grad is not None and w.grad.abs().max() > 0 for w in weights)
    before = model.eval()(images)
    with torch.no_grad():
        for weight in weights:
            weight += 0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    assert (model(images) - before).abs().max() > 1e-4


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", ["naflex", "naflex_map", "naflex_factorized"])
def test_patches_are_what_enters_without_position_and_prefix(name: str, channels_last: bool):
    vit, (images, _) = tiny_vit(name, patchify_channels_last=channels_last), tiny_batch()
    for key, position in vit.named_parameters():
        if "pos_embed" in key:
            position.data.zero_()
    family = family_of(vit)
    entering = family.embed(vit, images)[:, family.num_prefix(vit) :]
    torch.testing.assert_close(family.patches(vit, images), entering, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dinov3", "eva02", "beit"])
def test_positions_that_do_not_learn_are_kept_but_not_saved(name: str):
    model, *_ = tuned(name)
    kept = {key for key, _ in model.named_buffers() if key.startswith("_places.")}
    assert kept and not kept & model.state_dict().keys()


def test_coordinates_are_not_moved_at_random_where_the_network_learns():
    model, images, _ = tuned("sapiens2", "full", dtype=torch.float32)
    assert model.train().vit.rope.aug_active  # type: ignore[union-attr]
    assert model(images).equal(model(images))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("eva", {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"}),
        ("beit", {"blocks.0.attn.q_bias", "blocks.0.attn.relative_position_bias_table"}),
        ("beit_shared", {"rel_pos_bias.relative_position_bias_table"}),
        ("relpos_shared", {"shared_rel_pos.relative_position_bias_table"}),
    ],
)
def test_a_bias_of_another_name_learns_with_the_biases_and_does_not_decay(name: str, own: Any):
    model, *_ = tuned(name, "bias")
    assert {f"vit.{key}" for key in own} <= model.tuned_state().keys()
    for exempt in ("bias", "vectors"):
        groups = build_optimizer(
            model, Recipe(optimizer="adamw", weight_decay=0.1, decay_exempt=exempt)
        ).param_groups
        decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        assert [name for name, p in model.named_parameters() if id(p) in decaying] == [
            "head.weight"
        ]


@pytest.mark.parametrize("name", ["registers", "dinov3_plus", "clip", "mae", "perception_core"])
def test_class_token_beside_the_mean_are_of_normed_tokens(name: str):
    """As timm gives them to who joins them, whatever the network itself pools."""
    vit, (images, _) = tiny_vit(name, torch.float64), tiny_batch(torch.float64)
    with torch.no_grad():
        tokens = vit.forward_features(images)
        parts = (tokens[:, 0], tokens[:, vit.num_prefix_tokens :].mean(dim=1))
        expected = torch.cat([vit.fc_norm(part) for part in parts], dim=1)
    found = tune(vit, Linear(), num_classes=5, recipe=Recipe(readout="cls_mean")).prefix(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# What is refused


def gated(vit: Any) -> None:
    # As timm's attention has it, for networks to come.
    vit.blocks[1].attn.gate = nn.Linear(24, 24)


def other_attention(vit: Any) -> None:
    vit.blocks[1].attn = nn.MultiheadAttention(24, 3)


def other_block(vit: Any) -> None:
    vit.blocks[2] = ParallelThingsBlock(24, 3)


def other_rotation(vit: Any) -> None:
    vit.rope = nn.Identity()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("dinov3", gated, "block 1 gates its attention"),
        ("rope", other_attention, "block 1 attends with MultiheadAttention"),
        ("beit", other_attention, "block 1 attends with MultiheadAttention"),
        ("relpos", other_attention, "block 1 attends with MultiheadAttention"),
        ("eva02", other_block, "block 2 is a ParallelThingsBlock"),
        ("beit", other_block, "block 2 is a ParallelThingsBlock"),
        ("relpos", other_block, "block 2 is a ParallelThingsBlock"),
        ("eva02", other_rotation, "its positions are a Identity"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(name: str, change: Any, reason: str):
    vit = tiny_vit(name)
    check_supported(vit)
    change(vit)
    with pytest.raises(ValueError, match=f"^this backbone cannot be tuned: {reason}"):
        check_supported(vit)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("eva", {"patch_drop_rate": 0.5}, "it drops patches at random"),
        ("eva", {"global_pool": "avgmax"}, "its pooling 'avgmax' is not one of"),
        ("beit", {"global_pool": ""}, "its pooling '' is not one of"),
        ("relpos", {"global_pool": ""}, "its pooling '' is not one of"),
        ("naflex", {"patch_drop_rate": 0.5}, "it drops patches at random"),
        ("naflex", {"rope_type": "axial"}, "its positions are rotated"),
        ("naflex", {"attn_type": "eva"}, "block 0 is a EvaBlock, not a plain timm Block"),
        ("naflex", {"global_pool": "avg", "pool_include_prefix": True}, "pool_include_prefix"),
    ],
)
def test_options_that_the_walk_does_not_know_are_refused(name: str, options: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        check_supported(tiny_vit(name, **options))


def test_a_network_for_images_of_any_shape_asks_for_their_size():
    vit = NaFlexVit(**SIZE, num_classes=0)
    with pytest.raises(ValueError, match=r"keeps no image size: `methods\.load_backbone` tells"):
        check_agreement(vit)


def test_what_inherits_from_a_known_class_is_refused():
    class Own(VisionTransformer):
        pass

    with pytest.raises(ValueError, match="it is a Own, of no family"):
        check_supported(Own(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3))


def test_every_family_is_one_of_a_class_of_timm():
    for where in FAMILIES:
        module, _, kind = where.partition(":")
        found = getattr(__import__(module, fromlist=[kind]), kind)
        assert issubclass(found, nn.Module) and found.__module__ == module

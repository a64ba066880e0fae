"""Swin Transformers: as timm computes them, and with prompts in every window as VPT defines."""

import pytest
import timm
import torch
from plain_form import loss_and_gradients, plain_logits
from reference_vectors import Vectors, close
from timm.models.swin_transformer import SwinTransformer
from tiny_backbones import shake, tiny_batch
from tiny_swin import SHAPES, VERSIONS, tiny_swin
from torch.nn.functional import cross_entropy

from methods import METHODS, Recipe, load_backbone, restore, tune
from methods.agreement import check_agreement
from orchestrator.bundle.explain import explain

every_version = pytest.mark.parametrize("version", VERSIONS)

DEEP = {
    "vpt": {"num_tokens": 3},
    "vpt_dropout": {"num_tokens": 3, "dropout": 0.5},
    "vfpt": {"num_tokens": 4},
    "spt_uniform": {"num_tokens": 3, "init": "uniform"},
    "bpt": {"num_tokens": 3, "channels": 4, "tuned_bases": 3},
    "bpt_whitened": {"num_tokens": 3, "channels": 4, "whiten": "tuned"},
    "cvpt": {"num_tokens": 3},
    "apt": {"num_tokens": 3},
    "lora": {"rank": 2},
    "adapter": {"bottleneck": 2},
    "bias": {},
    "partial": {"num_blocks": 3},
    "full": {},
    "linear": {},
}
"""What works, with its settings."""

STAYING = [
    ("vpt", {"deep": False}),
    ("vfpt", {"deep": False}),
    ("bpt", {"deep": False}),
    ("spt", {"deep": False}),
    ("gatevpt", {}),
    ("lspt", {}),
]


def method_of(case):
    return METHODS[case.partition("_")[0]](**DEEP[case])


def build(case, version="swin", dtype=torch.float64, recipe=None, **changes):
    network = tiny_swin(version, dtype, **changes)
    images, labels = tiny_batch(dtype, size=changes.get("img_size", 32))
    model = tune(network, method_of(case), images, num_classes=5, recipe=recipe)
    return model, images[:3], labels[:3]


@every_version
@pytest.mark.parametrize("shape", SHAPES)
def test_without_prompts_it_is_timm_s(version, shape):
    network = tiny_swin(version, torch.float64, **SHAPES[shape])
    images, _ = tiny_batch(torch.float64, size=SHAPES[shape].get("img_size", 32))
    model = tune(network, METHODS["linear"](), num_classes=5)
    torch.testing.assert_close(model.prefix(images), network(images), rtol=1e-12, atol=1e-12)


@every_version
@pytest.mark.parametrize("case", DEEP)
def test_every_method_equals_its_plain_form(version, case):
    assert_equal_to_plain(*build(case, version))


@every_version
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("readout", ["mean_no_cls", "img_pool", "prompt_pool"])
def test_prompts_equal_the_plain_form_in_windows_of_every_shape(version, shape, readout):
    recipe = Recipe(readout=readout)
    assert_equal_to_plain(*build("vpt", version, recipe=recipe, **SHAPES[shape]))


def assert_equal_to_plain(model, images, labels):
    shake(model).train()
    torch.manual_seed(0)
    fast = model(images)
    torch.manual_seed(0)
    plain = plain_logits(model, images)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    _, gradients = loss_and_gradients(model, fast, labels)
    _, expected = loss_and_gradients(model, plain, labels)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-10, atol=1e-10, msg=key)


@every_version
@pytest.mark.parametrize("case", DEEP)
def test_prefix_and_rest_are_the_whole(version, case):
    model, images, _ = build(case, version)
    shake(model).eval()
    prefix = model.prefix(images)
    torch.testing.assert_close(model.forward_from(prefix), model(images), rtol=0, atol=0)
    shake(model)
    torch.testing.assert_close(model.prefix(images), prefix, rtol=0, atol=0)


@every_version
def test_an_image_s_logits_do_not_depend_on_the_others(version):
    """The released code mixes prompts of different images where the last stage has windows."""
    model, images, _ = build("vpt", version)
    shake(model).eval()
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), STAYING)
def test_prompts_that_stay_are_refused_with_what_works(name, options):
    images, _ = tiny_batch()
    with pytest.raises(ValueError, match=r"stay in the sequence.*windows.*deep"):
        tune(tiny_swin(), METHODS[name](**options), images, num_classes=5)


def test_prompts_have_the_width_of_their_stage_and_vpts_bound():
    model, *_ = build("vpt")
    shapes = [tuple(prompt.shape) for prompt in model.tuning.prompt]
    assert shapes == [(3, 12), (3, 12), (3, 24), (3, 24)]
    bound = (6 / (3 * 2 * 2 + 12)) ** 0.5  # of the first stage's width, in all stages
    largest = max(prompt.abs().max().item() for prompt in model.tuning.prompt)
    assert 0.8 * bound < largest <= bound


@every_version
def test_prompts_of_spt_are_tokens_that_enter_their_block(version):
    network = tiny_swin(version, torch.float64)
    images, _ = tiny_batch(torch.float64)
    entering = [list(block) for block in zip(*map(tokens_into(network), images), strict=True)]
    for init in ("random", "mean_pool", "max_pool", "kmeans"):
        method = METHODS["spt"](num_tokens=5, init=init)
        seen = method.look_at(network, images.split(4))
        model = tune(network, method, seen, num_classes=5)
        shapes = [tuple(prompt.shape) for prompt in model.tuning.prompt]
        assert shapes == [(5, 12), (5, 12), (5, 24), (5, 24)]
        if init == "random":
            for prompt, tokens in zip(model.tuning.prompt, entering, strict=True):
                distances = torch.cdist(prompt.detach(), torch.cat(tokens))
                assert distances.min(dim=1).values.max() < 1e-6


def tokens_into(network):
    """The patches (N, d) that enter each block for an image, as timm computes them."""

    def entering(image):
        seen, blocks = [], [block for stage in network.layers for block in stage.blocks]
        see = lambda module, arguments: seen.append(arguments[0][0].flatten(0, 1))  # noqa: E731
        hooks = [block.register_forward_pre_hook(see) for block in blocks]
        network(image[None])
        for hook in hooks:
            hook.remove()
        return seen

    return entering


@pytest.mark.parametrize("name", ["vipamin", "vapt"])
def test_a_method_that_does_not_go_with_stages_says_so(name):
    images, _ = tiny_batch()
    with pytest.raises(ValueError, match=r"windows|one width"):
        tune(tiny_swin(), METHODS[name](), images, num_classes=5)


def test_a_projection_to_one_width_is_refused():
    with pytest.raises(ValueError, match=r"projection.*12, 24"):
        tune(tiny_swin(), METHODS["vpt"](projection=8), num_classes=5)


@every_version
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"global_pool": "max"}, "pooling 'max'"),
        ({"dynamic_img_size": True}, "images of any size"),
        ({"depths": (1, 0)}, "a stage without blocks"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(version, change, reason):
    with pytest.raises(ValueError, match=reason):
        tune(tiny_swin(version, **change), METHODS["linear"](), num_classes=5)


@every_version
@pytest.mark.parametrize("case", ["vpt", "lora"])
def test_a_saved_state_gives_the_same_logits(version, case):
    model, images, _ = build(case, version)
    shake(model).eval()
    state = {key: value.clone() for key, value in model.tuned_state().items()}
    again = restore(tiny_swin(version, torch.float64), method_of(case), state, num_classes=5)
    assert again.eval()(images).equal(model(images))


def test_exports_for_any_number_of_images():
    model, images, _ = build("vpt", "swinv2", torch.float32, depths=(2, 1))
    shake(model).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(images[:2]), model(images[:2]))


def test_compiles_as_one_graph_to_the_same_result():
    model, images, labels = build("vpt", "swin", torch.float32, depths=(2, 1))
    shake(model).eval()
    expected, gradients = loss_and_gradients(model, model(images), labels)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found, again = loss_and_gradients(model, compiled(images), labels)
    torch.compiler.reset()
    torch.testing.assert_close(found, expected)
    for key, gradient in gradients.items():
        torch.testing.assert_close(again[key], gradient, msg=key)


@every_version
@pytest.mark.parametrize("case", ["vpt", "lora", "full"])
def test_works_under_autocast_with_half_a_backbone_and_recomputed(version, case):
    model, images, labels = build(case, version, torch.float32)
    shake(model, 0.05).train()
    torch.manual_seed(0)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        cast = model(images)
        cross_entropy(cast, labels).backward()
    torch.testing.assert_close(cast.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.checkpoint_blocks = True
    torch.manual_seed(0)
    torch.testing.assert_close(model(images), exact)

    half = tune(tiny_swin(version, torch.bfloat16), method_of(case), num_classes=5)
    assert {value.dtype for value in half.tuned_state().values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "full"):
        half(images.bfloat16()).sum().backward()


def test_explain_says_that_windows_have_no_such_picture():
    class Backbone:
        name = "swin_tiny_patch4_window7_224"

    class Named:
        backbone = Backbone()

    class Shown:
        model = build("vpt")[0]
        bundle = Named()

    with pytest.raises(ValueError, match=r"swin_tiny.* within its window; predict and evaluate"):
        explain(Shown(), None, [], None)


@every_version
def test_partial_trains_what_vpts_code_trains(version):
    """The merging of patches between two stages only where a block in front of it learns, too."""
    network, depths = tiny_swin(version), []
    for count in (2, 3):
        model = tune(network, METHODS["partial"](num_blocks=count), num_classes=5)
        names = {key.removeprefix("vit.") for key in model.tuned_state()}
        depths.append({tuple(key.split(".")[1:4:2]) for key in names if ".blocks." in key})
        assert {"norm.weight", "norm.bias"} <= names
        assert any("downsample" in key for key in names) == (count == 3)
    assert depths == [{("1", "0"), ("1", "1")}, {("0", "1"), ("1", "0"), ("1", "1")}]


def test_bias_tuning_has_the_tables_of_biases_as_vpts_code_has():
    tables = [key for key in build("bias")[0].tuned_state() if key.endswith("_bias_table")]
    assert len(tables) == 4


@every_version
def test_only_the_recipe_says_what_is_dropped(version):
    """timm's Swin would leave branches out at random in training, unasked."""
    name = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}[version]
    small = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
    vit = load_backbone(name, pretrained=False, image_size=64, arguments=small).vit
    assert not any(getattr(module, "drop_prob", 0) for module in vit.modules())


def test_full_fine_tuning_moves_the_relative_positions_too():
    for version, part in (("swin", "relative_position_bias_table"), ("swinv2", "cpb_mlp")):
        model, images, labels = build("full", version)
        cross_entropy(model.train()(images), labels).backward()
        tables = [p for name, p in model.vit.named_parameters() if part in name]
        assert tables and all(table.grad.abs().max() > 0 for table in tables)


def test_a_file_of_other_windows_is_refused_and_not_resampled(tmp_path):
    name, sizes = "swin_tiny_patch4_window7_224", {"window_size": 12, "img_size": 384}
    torch.save(timm.create_model(name, num_classes=0, **sizes).state_dict(), tmp_path / "12.pth")
    with pytest.raises(ValueError, match=r"12×12 patches, this backbone of 7×7.*window12"):
        load_backbone(name, weights=tmp_path / "12.pth")
    torch.save(timm.create_model(name, num_classes=0).state_dict(), tmp_path / "7.pth")
    smaller = load_backbone(name, weights=tmp_path / "7.pth", image_size=112)
    check_agreement(smaller.vit)


# The authors' own code

CASES = ("linear", "deep_tokens_1", "deep_tokens_4", "deep_large_values")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file", ["swin", "swin_windows"])
def test_equals_the_published_code(shared, file, case, dtype):
    vectors = Vectors(shared, f"methods_2024/{file}")
    network = SwinTransformer(
        img_size=vectors.data["meta/img"].item(),
        patch_size=vectors.data["meta/patch"].item(),
        embed_dim=vectors.data["meta/dim"].item(),
        depths=tuple(vectors.data["meta/depths"].tolist()),
        num_heads=tuple(vectors.data["meta/heads"].tolist()),
        window_size=vectors.data["meta/window"].item(),
        num_classes=0,
    )
    network.load_state_dict(vectors.tensors("backbone/", torch.float32))
    network = network.requires_grad_(False).eval().to(dtype)
    given = vectors.tensors(f"case/{case}/param/", dtype)
    stages = sorted(key for key in given if key.startswith("prompt/"))
    count = given[stages[0]].shape[1] if stages else 0
    method = METHODS["vpt"](num_tokens=count) if stages else METHODS["linear"]()
    assert vectors.settings(case)["readout"] == "mean_all"
    model = tune(network, method, num_classes=7, recipe=Recipe(readout="mean_no_cls")).eval()
    names = {"head/weight": ["head.weight"], "head/bias": ["head.bias"]}
    rows = [prompt for stage in stages for prompt in given[stage]]
    state = {f"tuning.prompt.{index}": prompt for index, prompt in enumerate(rows)}
    state |= {"head.weight": given["head/weight"], "head.bias": given["head/bias"]}
    model.load_tuned_state(state)
    first = 0
    for stage in stages:
        last = first + len(given[stage])
        names[stage] = [f"tuning.prompt.{index}" for index in range(first, last)]
        first = last

    images, labels = (vectors.tensors(key, dtype)[""] for key in ("image", "label"))
    expected = vectors.tensors(
        f"case/{case}/{'out64' if dtype == torch.float64 else 'out'}/", dtype
    )
    logits = model(images)
    prefix = model.prefix(images)
    features = prefix if prefix.ndim == 2 else model.features_from(prefix)
    loss, gradients = loss_and_gradients(model, logits, labels)
    tight, loose = (1e-11, 1e-9) if dtype == torch.float64 else (1e-5, 1e-4)
    for name, value in {"logits": logits, "features": features, "loss": loss}.items():
        close(name, value, expected[name], tight, at_least=1.0)
    for key, own in names.items():
        found = torch.stack([gradients[n] for n in own]) if key in stages else gradients[own[0]]
        close(key, found, expected[f"grad/{key}"], loose, at_least=1e-6)


def test_every_case_is_tried(shared):
    for file in ("swin", "swin_windows"):
        keys = Vectors(shared, f"methods_2024/{file}").data
        assert {key.split("/")[1] for key in keys if key.startswith("case/")} == set(CASES)

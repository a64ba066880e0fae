"""VAPT: its definition with a convolution on every image, the one matrix that it is, and the
authors' own values."""

import pytest
import torch
import torch.nn.functional as F
from plain_form import plain_logits
from reference_vectors import Vectors, equals_published
from tiny_backbones import OTHERS, shake, tiny_batch, tiny_vit
from tiny_swin import tiny_swin

from methods import METHODS, tune

VAPT = METHODS["vapt"]
EXACT = {"rtol": 1e-10, "atol": 1e-10}
CASES = [
    *("init_values", "kernel_1", "kernel_2", "kernel_3", "mae_kernel_2", "moco_kernel_2"),
    *("no_conv", "one_token", "two_plain_blocks"),
]
OTHER_FORMS = {"channel_kernels", "gelu", "learned_scale", "own_mlps", "padding_1"}
"""Cases of switches of the released code that its recipes leave off."""

both_types = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def as_published(vectors, case, dtype):
    settings = vectors.settings(case)
    method = VAPT(
        num_tokens=settings["tokens"],
        kernel=settings["kernel"] or None,
        hidden=settings["rank"],
        plain_blocks=settings["plain_blocks"],
    )
    names = {
        "prompt": "tuning.prompt",
        "norm/weight": "tuning.norm_weight",
        "norm/bias": "tuning.norm_bias",
        "conv/kernel": "tuning.kernel",
        "linear/weight": "tuning.linear_weight",
        "linear/bias": "tuning.linear_bias",
        "mlp/down": ["tuning.down"],
        "mlp/up": ["tuning.up"],
    }
    return equals_published(vectors, case, method, names, dtype)


@both_types
@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_code(shared, case, dtype):
    as_published(Vectors(shared, "methods_2024/vapt"), case, dtype)


@both_types
@pytest.mark.parametrize("case", ["kernel_2"])
def test_equals_the_published_code_on_values_of_our_own(case, dtype):
    as_published(Vectors(None, "vapt"), case, dtype)


def test_every_case_is_tried_or_known_to_be_another_form(shared):
    data = Vectors(shared, "methods_2024/vapt").data
    assert {k.split("/")[1] for k in data if k.startswith("case/")} == {*CASES, *OTHER_FORMS}


# Written out


def tuned(*, grid=(32, 32), family="supervised", **options):
    """On a tiny ViT in float64, off its initial values; `grid` in pixels."""
    vit = tiny_vit(family, torch.float64, img_size=grid)
    return shake(tune(vit, VAPT(**options), num_classes=5))


def plainly(tuning, number, patches, grid):
    """The prompts (B, P, d) of a computed block as the paper has them, convolution and all."""
    x = F.layer_norm(patches, patches.shape[-1:], eps=1e-5)
    x = x * tuning.norm_weight[number] + tuning.norm_bias[number]
    images = x.transpose(1, 2).unflatten(-1, grid)
    if tuning.kernel is not None:
        kernel = tuning.kernel[number].expand(images.shape[1], -1, -1, -1)
        images = F.conv2d(images, kernel, groups=images.shape[1])
    images = F.dropout2d(images, tuning.method.channel_dropout, tuning.training)
    gathered = images.flatten(2) @ tuning.linear_weight[number].T + tuning.linear_bias[number]
    gathered = gathered.transpose(1, 2)
    hidden = (gathered @ tuning.down.T).relu()
    hidden = F.dropout(hidden, tuning.method.projector_dropout, tuning.training)
    return gathered + hidden @ tuning.up.T


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "dropout"])
@pytest.mark.parametrize("kernel", [None, 1, 2, 3])
@pytest.mark.parametrize("grid", [(32, 32), (32, 56)], ids=["square", "wide"])
def test_one_matrix_is_the_convolution_and_the_linear_map(grid, kernel, training):
    """With the same random numbers: dropping a channel behind the convolution or behind both is
    the same."""
    model = tuned(grid=grid, kernel=kernel, num_tokens=4).train(training)
    patches = (grid[0] // 8, grid[1] // 8)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1 + patches[0] * patches[1], 24)
    tokens = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = []
    for compute in (
        lambda x: model.tuning.prompts_from(2, x),
        lambda x: plainly(model.tuning, 1, x[:, 1:], patches),
    ):
        torch.manual_seed(0)
        asked = tokens.clone().requires_grad_()
        prompts = compute(asked)
        weights = [p for name, p in model.tuning.named_parameters() if name != "prompt"]
        gradients = torch.autograd.grad(prompts.square().sum(), [asked, *weights])
        found.append((prompts, *gradients))
    torch.testing.assert_close(found[0], found[1], **EXACT)
    if training:
        torch.manual_seed(1)
        assert not compute(tokens).equal(found[1][0]), "channels are dropped"


@pytest.mark.parametrize("family", ["supervised", "registers", "gap"])
def test_prompts_come_from_the_patches_that_enter_the_block(family):
    """Written out over the blocks, in the plain token form."""
    images, _ = tiny_batch(torch.float64)
    model = tuned(family=family, num_tokens=4).eval()
    vit, tuning = model.vit, model.tuning
    prefix = vit.num_prefix_tokens
    tokens = vit._pos_embed(vit.patch_embed(images))
    patches, prompts = tokens[:, prefix:], tuning.prompt[0].expand(6, -1, -1)
    for index, block in enumerate(vit.blocks):
        if index:
            prompts = plainly(tuning, index - 1, patches, (4, 4))
        tokens = block(torch.cat([tokens[:, :prefix], prompts, patches], dim=1))
        patches = tokens[:, prefix + 4 :]
    if vit.global_pool == "avg":
        features = vit.norm(torch.cat([tokens[:, prefix : prefix + 4], patches], 1)).mean(1)
    else:
        features = vit.norm(tokens)[:, 0]
    torch.testing.assert_close(model(images), model.head(features), **EXACT)


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_compute_prompts_from_their_own_patches(name):
    images, _ = tiny_batch(torch.float64)
    model = tuned(family=name, num_tokens=4).eval()
    torch.testing.assert_close(model(images), plain_logits(model, images), **EXACT)


# The start, and what cannot be


def test_computed_prompts_start_at_zero_and_differ_between_images_once_trained():
    tokens = torch.randn(6, 17, 24)
    model = tune(tiny_vit(), VAPT(), num_classes=5).eval()
    assert model.tuning.prompts_from(1, tokens).abs().max() == 0
    assert model.tuning.prompts_from(0, tokens).shape == (10, 24)
    prompts = shake(model).tuning.prompts_from(1, tokens)
    assert prompts.shape == (6, 10, 24) and not prompts[0].allclose(prompts[1])


def test_kernels_start_normal_and_the_projector_as_torch_s_layers():
    tuning = tune(tiny_vit(img_size=256), VAPT(kernel=30, hidden=96), num_classes=5).tuning
    assert tuning.kernel.std().item() == pytest.approx(1, rel=0.1)
    assert tuning.down.abs().max().item() == pytest.approx(24**-0.5, rel=0.01)
    assert tuning.up.abs().max().item() == pytest.approx(96**-0.5, rel=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"plain_blocks": 3},
            "leaves none of 3 blocks with prompts to compute them for: at most 2",
        ),
        ({"kernel": 5}, "kernel=5, but an image is 4 x 4 patches: at most 4"),
        ({"kernel": 0}, "kernel=0 must be a whole number, at least 1, or None"),
    ],
)
def test_what_does_not_fit_the_backbone_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        tune(tiny_vit(), VAPT(**options), num_classes=5)


def test_a_backbone_of_several_widths_is_refused_by_name():
    with pytest.raises(ValueError, match=r"VAPT: one projector .* of one width.*Take vpt or cvpt"):
        tune(tiny_swin(), VAPT(), num_classes=5)

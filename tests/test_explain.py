"""The pictures show what the network computes."""

import base64
import re

import pytest
import torch
from suites import write_task
from written_bundles import write_bundle

from methods import METHODS, load_backbone, tune
from orchestrator.bundle.bundle import load_bundle
from orchestrator.bundle.explain import explain, prompt_edits, record_looks


@pytest.fixture(scope="module")
def vit():
    return load_backbone("vit_quickstart").vit


def images_of(vit, count=2):
    size = vit.patch_embed.img_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("deep", [True, False])
def test_recorded_attention_is_a_share_of_one_and_knows_the_prompts(vit, deep):
    images = images_of(vit)
    model = tune(vit, METHODS["vpt"](num_tokens=3, deep=deep), num_classes=2)
    looks = record_looks(model, images)
    depth, num_patches = len(vit.blocks), vit.patch_embed.num_patches
    assert looks.patches.shape == (depth, 2, num_patches)
    assert [prompts.shape for prompts in looks.prompts] == [(2, 3)] * depth
    for block in range(depth):
        total = looks.patches[block].sum(dim=1) + looks.prompts[block].sum(dim=1)
        assert (total > 0).all()
        assert (total < 1).all()  # the class token has the rest


def test_a_prompt_that_shouts_is_seen_as_the_one_looked_at(vit):
    """The share of a prompt is found at its place among the keys."""
    images = images_of(vit, 1)
    model = tune(vit, METHODS["vpt"](num_tokens=4, deep=True), num_classes=2).eval()
    before = record_looks(model, images).prompts[0][0]
    with torch.no_grad():  # the key of prompt 2 becomes that of the class token's own query
        model.tuning.prompt[0, 2] = 30 * model.tuning.prompt[0, 2]
    after = record_looks(model, images).prompts[0][0]
    changed = (after - before).abs()
    assert changed.argmax() == 2


def test_attention_beside_the_block_is_not_taken_for_it(vit):
    """CVPT's prompts, so many that they are asked by the same function as the tokens."""
    images = images_of(vit)
    method = METHODS["cvpt"](num_tokens=4 * vit.embed_dim)
    model = tune(vit, method, num_classes=2).eval()
    normed = []
    for block in model.vit.blocks:
        block.norm1.register_forward_hook(lambda module, arguments, output: normed.append(output))
    looks = record_looks(model, images)
    for index, block in enumerate(model.vit.blocks):
        q, k, _ = block.attn.qkv(normed[index]).chunk(3, dim=-1)
        q, k = (t.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for t in (q, k))
        scores = q[:, :, :1] @ k.mT * block.attn.scale
        expected = scores.softmax(-1).mean(dim=1)[:, 0, -looks.patches.shape[-1] :]
        torch.testing.assert_close(looks.patches[index], expected)


def test_watching_changes_nothing(vit):
    images = images_of(vit)
    model = tune(vit, METHODS["lspt"](num_tokens=2, hidden=8), num_classes=2).eval()
    with torch.no_grad():
        before = model(images)
        record_looks(model, images)
        assert prompt_edits(model, images) is not None
        assert torch.equal(before, model(images))


def test_gates_are_told_as_shares(vit):
    model = tune(vit, METHODS["gatevpt"](num_tokens=2, gate_init=0.0), num_classes=2)
    (gates,) = model.tuning.portraits()
    assert gates.values == pytest.approx([0.5] * (len(vit.blocks) - 1))
    assert not tune(vit, METHODS["vpt"](num_tokens=2), num_classes=2).tuning.portraits()


@pytest.mark.parametrize(
    ("method", "pictures"),
    [("gatevpt", 4), ("lspt", 4), ("spt", 3), ("cvpt", 1), ("vapt", 3), ("linear", 1)],
)
def test_the_page_holds_its_pictures(method, pictures, tmp_path):
    task = write_task(tmp_path / "colours")
    path, trial = write_bundle(method, task, tmp_path)
    images = trial.load_pixels("train").images.numpy()
    page = explain(load_bundle(path), images[:3], ["red", "<green>", "blue"], images)
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == pictures
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)
    assert "http" not in page.replace("http-equiv", "")

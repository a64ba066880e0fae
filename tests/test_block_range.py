"""Prompts in some blocks: `blocks: [first, last]`."""

import pytest
import torch
from plain_form import loss_and_gradients, plain_logits
from tiny_backbones import shake, tiny_batch, tiny_vit

from methods import METHODS, Recipe, restore, tune
from orchestrator.plan.prepare import fit_to_backbone
from orchestrator.plan.space import parse_space
from orchestrator.support.yaml_io import dump_yaml, parse_yaml

DEEP = [name for name in METHODS.shipped if hasattr(METHODS[name], "blocks")]
OPTIONS = {
    "spt": {"init": "uniform"},
    "vipamin": {"deep": True, "num_tokens": 6, "num_matched": 3},
    "bpt": {"num_tokens": 6, "channels": 4},
}
"""That draw no tokens of images, so that blocks may be compared one by one."""


def built(name, *, depth=4, seed=0, dtype=torch.float64, readout="cls", **options):
    images, labels = tiny_batch(dtype)
    method = METHODS[name](**{**OPTIONS.get(name, {}), **options})
    vit = tiny_vit(dtype=dtype, depth=depth)
    recipe = Recipe(readout=readout)
    return tune(vit, method, images, num_classes=5, recipe=recipe, seed=seed), images, labels


def test_the_methods_with_deep_prompts_have_it():
    assert {"vpt", "spt"} <= set(DEEP)


@pytest.mark.parametrize("name", DEEP)
def test_blocks_outside_the_range_run_as_timm_runs_them(name: str):
    """By hooks on the blocks themselves, and nothing of it by the walk."""
    model, images, labels = built(name, blocks=[1, 2])
    shake(model).train()
    torch.manual_seed(0)
    logits = model(images)
    torch.manual_seed(0)
    plain = plain_logits(model, images)
    torch.testing.assert_close(logits, plain, rtol=1e-10, atol=1e-10)
    _, gradients = loss_and_gradients(model, logits, labels)
    _, of_plain = loss_and_gradients(model, plain, labels)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_plain[key], rtol=1e-9, atol=1e-10, msg=key)
        sets = gradient if gradient.ndim == 3 else gradient[None]  # of every block, not only of one
        assert all(one.any() for one in sets), f"{key} is without effect"
    model.eval()
    before_first = model.vit.blocks[0](model.vit._pos_embed(model.vit.patch_embed(images)))
    torch.testing.assert_close(model.prefix(images), before_first, rtol=1e-12, atol=1e-12)
    assert model.prefix_key == ("blocks", 1)


@pytest.mark.parametrize("name", DEEP)
def test_all_blocks_named_is_no_blocks_named(name: str):
    named, images, _ = built(name, blocks="0-3")
    unnamed, *_ = built(name)
    for key, value in unnamed.tuned_state().items():
        assert named.tuned_state()[key].equal(value), key
    assert named.eval()(images).equal(unnamed.eval()(images))


@pytest.mark.parametrize("name", ["vpt", "spt"])
def test_only_blocks_of_the_range_have_prompts(name: str):
    model, *_ = built(name, blocks=[1, 2], num_tokens=6)
    assert model.tuning.prompt.shape == (2, 6, 24)


def test_spt_starts_from_the_tokens_of_its_blocks():
    shown = {}
    for blocks in (None, [2, 2]):
        model, *_ = built("spt", blocks=blocks, num_tokens=3, init="kmeans")
        shown[str(blocks)] = model.tuning.prompt.detach()
    assert shown["[2, 2]"][0].equal(shown["None"][2])


@pytest.mark.parametrize("readout", ["mean_no_cls", "img_pool"])
@pytest.mark.parametrize("blocks", [[0, 1], [3, 3]])
def test_a_readout_of_many_rows_reads_prompts_where_there_are_some(readout: str, blocks):
    model, images, _ = built("vpt", blocks=blocks, num_tokens=4, readout=readout)
    shake(model).eval()
    found = model(images)
    torch.testing.assert_close(found, plain_logits(model, images), rtol=1e-10, atol=1e-10)


def test_a_readout_of_prompts_needs_some_in_the_last_block():
    with pytest.raises(ValueError, match=r"prompt_pool.*behind block 2 there are no prompts"):
        built("vpt", blocks=[1, 2], readout="prompt_pool")
    model, images, _ = built("vpt", blocks=[1, 3], readout="prompt_pool")
    torch.testing.assert_close(model(images), plain_logits(model, images), rtol=1e-10, atol=1e-10)


def test_a_saved_range_is_loaded():
    model, images, _ = built("spt", blocks=[2, 3])
    shake(model).eval()
    again = restore(model.vit, model.method, model.tuned_state(), num_classes=5).eval()
    assert again(images).equal(model(images))


@pytest.mark.parametrize("value", ["1-2", [1, 2], (1, 2), "01-02"])
def test_a_pair_is_as_good_as_the_text(value):
    method = METHODS["vpt"](blocks=value)
    written = METHODS["vpt"](blocks="1-2")
    assert method.blocks == "1-2"
    assert method == written and hash(method) == hash(written)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("3-1", "VPT: blocks='3-1' ends before it begins; did you mean '1-3'"),
        ([3, 1], "ends before it begins; did you mean '1-3'"),
        ([1], r"expected \[first, last\], two blocks counted from 0, found \[1\]"),
        ([0, True], "expected .first, last."),
        ([-1, 2], "expected .first, last."),
        ([0, 10**9], "expected .first, last."),
        ("last four", "must be the first and the last block"),
        (4, "must be the first and the last block"),
        ("1-2-3", "must be the first and the last block"),
        ("0-\u0663", "must be the first and the last block"),
    ],
)
def test_what_is_no_range_is_refused(value, words: str):
    with pytest.raises(ValueError, match=words):
        METHODS["vpt"](blocks=value)


def test_blocks_that_a_backbone_does_not_have_are_named():
    with pytest.raises(ValueError, match=r"blocks='2-4', but the backbone has 4 blocks: .* is 3"):
        built("vpt", blocks=[2, 4])


@pytest.mark.parametrize("name", ["vpt", "spt"])
def test_prompts_that_stay_have_no_range(name: str):
    with pytest.raises(ValueError, match="for deep prompts; with deep=False they enter before"):
        METHODS[name](deep=False, blocks=[0, 2])


SPACE = """
method: vpt
fixed: {deep: true}
search:
  blocks: {choices: [null, [8, 11], [1, 2]]}
  num_tokens: {choices: [1, 5], when: {blocks: [1, 2]}}
"""


def space_of(text: str):
    return parse_space(parse_yaml(text, source="mine.yaml"), name="mine", source="mine.yaml")


def test_a_space_draws_plain_values():
    """A study, its tables and Optuna's importances hold no lists."""
    space = space_of(SPACE)
    assert space.dimensions[0].distribution.choices == (None, "8-11", "1-2")
    assert space.dimensions[1].when == {"blocks": ("1-2",)}
    written = dump_yaml(space.document)
    assert space_of(written).document == space.document
    assert space.with_fixed({"blocks": [8, 11]}).fixed["blocks"] == "8-11"


@pytest.mark.parametrize("when", ["1-2", "[1, 2]", "[[1, 2], null]", "['1-2']"])
def test_a_condition_may_name_a_range(when: str):
    space = space_of(SPACE.replace("when: {blocks: [1, 2]}", f"when: {{blocks: {when}}}"))
    assert space.dimensions[1].applies({"deep": True, "blocks": "1-2"})
    assert not space.dimensions[1].applies({"deep": True, "blocks": "8-11"})


def test_a_wrong_range_in_a_space_is_named():
    for wrong in ("[3, 1]", "[3]", "[a, b]"):
        with pytest.raises(ValueError, match=r"mine\.yaml: blocks: "):
            space_of(SPACE.replace("[8, 11]", wrong))
    with pytest.raises(ValueError, match=r"mine\.yaml: num_tokens: expected \[first, last\]"):
        space_of(SPACE.replace("{blocks: [1, 2]}", "{blocks: [3]}"))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            "method: vpt\nsearch: {deep: {choices: [true, false]}, blocks: {choices: [null, 1-2]}}",
            r"space mine: deep no with blocks 1-2: VPT: blocks='1-2' is for deep prompts",
        ),
        (
            "method: bpt\nsearch: {blocks: {choices: [null, 1-2]}, tuned_bases: {choices: [3]}}",
            r"blocks 1-2 with tuned_bases 3: BPT: tuned_bases=3, but only 2 .*`when` keeps",
        ),
        (
            "method: bpt\nsearch: {whiten: {choices: [none, fixed]}, channels: {choices: [9, 75]}}",
            r"whiten fixed with channels 75: BPT: channels=75, but a whitening .* only 60 columns",
        ),
    ],
)
def test_what_fits_by_itself_but_not_together_is_said_before_a_trial_draws_it(space, words: str):
    with pytest.raises(ValueError, match=words):
        fit_to_backbone(space_of(space), tiny_vit(depth=4, embed_dim=60), print)
    kept_apart = (
        SPACE.replace("fixed: {deep: true}\n", "")
        .replace("search:\n", "search:\n  deep: {choices: [true, false]}\n")
        .replace("[1, 2]]}", "[1, 2]], when: {deep: true}}")
    )
    assert fit_to_backbone(space_of(kept_apart), tiny_vit(depth=4), print).dimensions


def test_choices_that_a_backbone_has_no_room_for_are_left_out():
    said = []
    space = fit_to_backbone(space_of(SPACE), tiny_vit(depth=4), said.append)
    assert space.dimensions[0].distribution.choices == (None, "1-2")
    assert "left out blocks = 8-11: " in said[0] and "has 4 blocks" in said[0]

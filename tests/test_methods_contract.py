"""What every method promises, over the registry: a new method is tested by being registered."""

import ast
import dataclasses
import inspect

import pytest
import torch
from plain_form import loss_and_gradients, plain_logits
from tiny_backbones import FAMILIES, shake, tiny_batch, tiny_vit
from torch.nn.functional import cross_entropy

from methods import METHODS, Recipe, build_optimizer, tune
from orchestrator.training.config import num_epochs

VARIANTS = {
    "gatevpt": [
        {"dropout": 0.0, "gating_depth": 1, "learn_temperature": False, "temperature": 0.75},
        {"gating_depth": 0},
    ],
    "lspt": [
        {"spatial": "mean_patch_new_prompt", "hidden": 24, "memory_init": "prompt"},
        {"residual": False, "normalize": True, "learn_temperature": True},
        {"temporal": False, "gating_depth": 1},
        {"spatial": "none", "dropout": 0.0},
    ],
    "apt": [
        {"weight": "none", "activation": "softmax", "rank": 0, "use_scale": False},
        {"weight": "none"},
    ],
    "cvpt": [{"num_tokens": 3, "dropout": 0.0}, {"num_tokens": 60}, {"blocks": "1-1"}],
    "vapt": [
        {"blocks": "1-2", "num_tokens": 4},
        {"kernel": None, "plain_blocks": 2},
        {"kernel": 3, "num_tokens": 2, "channel_dropout": 0.0, "projector_dropout": 0.0},
        {"dropout": 0.0, "channel_dropout": 0.0, "projector_dropout": 0.0},
    ],
    "vfpt": [
        {"axes": "tokens", "alpha": 1.0, "num_tokens": 3},
        {"axes": "width", "projection": 8, "dropout": 0.5, "num_tokens": 4},
        {"deep": False, "num_tokens": 5},
        {"blocks": "1-2", "alpha": 0.7, "num_tokens": 5},
    ],
    "lora": [{"rank": 2, "alpha": 5}],
    "adapter": [{"position": "mlp", "channel_scale": False}],
    "spt": [
        {"deep": False, "num_tokens": 6},
        *({"init": init, "num_tokens": 6} for init in ("mean_pool", "max_pool", "kmeans")),
        {"init": "uniform"},
        {"blocks": "2-2", "num_tokens": 6},
    ],
    "vipamin": [
        {"deep": True, "num_tokens": 6, "num_matched": 3, "blocks": "1-2"},
        {"num_tokens": 6, "orthogonal_share": 1.0, "form": "code"},
    ],
    "bpt": [
        {"num_tokens": 6, "channels": 4, "tuned_bases": 1, "blocks": "1-2"},
        {"num_tokens": 6, "channels": 4, "whiten": "fixed"},
        {"deep": False, "num_tokens": 6, "channels": 4, "whiten": "tuned", "form": "code"},
    ],
    "partial": [{"num_blocks": 3}],
    "vpt": [
        {"deep": False},
        {"projection": 8},
        {"dropout": 0.5},
        {"deep": False, "dropout": 0.5},
        {"blocks": "1-2", "dropout": 0.5, "projection": 8},
    ],
}
"""Beside its defaults, the settings that make a method compute something else."""

CASES = [(name, {}) for name in METHODS]
CASES += [(name, options) for name in VARIANTS for options in VARIANTS[name]]


def case_id(case):
    name, options = case
    return "-".join([name, *(f"{key}={value}" for key, value in options.items())])


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
every_method = pytest.mark.parametrize("name", METHODS)


def build(case, *, family="supervised", dtype=torch.float32, depth=3, seed=0, **recipe):
    name, options = case
    method = METHODS[name](**options)
    images, labels = tiny_batch(dtype)
    recipe = dataclasses.replace(method.recipe(), **recipe)
    vit = tiny_vit(family, dtype, depth=depth)
    model = tune(vit, method, images, num_classes=5, recipe=recipe, seed=seed)
    return model, images, labels


@every_case
def test_only_the_tuned_weights_change(case):
    model, images, labels = build(case)
    model.train()
    shake(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cross_entropy(model(images), labels).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    changed = {k for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert changed == set(model.tuned_state())


@every_case
def test_the_given_backbone_is_shared_and_untouched(case):
    name, options = case
    vit = tiny_vit()
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    images, labels = tiny_batch()
    model = tune(vit, METHODS[name](**options), images, num_classes=5).train()
    cross_entropy(model(images), labels).backward()
    build_optimizer(model, Recipe(lr=10.0)).step()
    assert not vit.training
    assert not any(p.requires_grad or p.grad is not None for p in vit.parameters())
    assert all(v.equal(before[k]) for k, v in vit.state_dict().items())
    own = dict(model.vit.named_parameters())
    for key, weight in vit.named_parameters():
        assert own[key].requires_grad or own[key].data_ptr() == weight.data_ptr(), key


@every_case
@pytest.mark.parametrize("readout", ["cls", "mean_no_cls", "img_pool", "prompt_pool", "cls_mean"])
def test_the_walk_equals_the_plain_token_form(case, readout):
    if readout == "prompt_pool" and not build(case)[0].tuning.num_prompts:
        with pytest.raises(ValueError, match="no prompts"):
            build(case, readout=readout)
        return
    assert_equal_to_plain(*build(case, dtype=torch.float64, readout=readout))


@every_case
def test_epochs_depend_on_no_value_of_the_method(case):
    """A report asks for them without the class, which would bring torch."""
    name, options = case
    planned = num_epochs(name, options, source=name)
    assert METHODS[name](**options).recipe().epochs == planned
    assert num_epochs(name, {**options, "epochs": 17}, source=name) == 17


@every_method
@pytest.mark.parametrize("family", [*FAMILIES, "dinov3", "eva02_enormous", "beit"])
def test_the_walk_equals_the_plain_token_form_on_every_family(name, family):
    assert_equal_to_plain(*build((name, {}), dtype=torch.float64, family=family))


def assert_equal_to_plain(model, images, labels):
    """Logits and every gradient, in training mode and with the same random numbers."""
    shake(model).train()
    torch.manual_seed(0)
    fast = model(images)
    torch.manual_seed(0)
    plain = plain_logits(model, images)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
    loss, gradients = loss_and_gradients(model, fast, labels)
    plain_loss, plain_gradients = loss_and_gradients(model, plain, labels)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-10, atol=1e-10)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[key], rtol=1e-9, atol=1e-10, msg=key)


@every_case
def test_the_prefix_is_constant_and_leads_to_the_same_logits(case):
    model, images, labels = build(case)
    model.eval()
    prefix = model.prefix(images)
    assert not prefix.requires_grad
    assert (model.prefix_key is None) == (prefix is images)
    torch.testing.assert_close(model.forward_from(prefix), model(images), rtol=0, atol=0)
    cross_entropy(model.train()(images), labels).backward()
    build_optimizer(model, Recipe(lr=1.0)).step()
    torch.testing.assert_close(model.prefix(images), prefix, rtol=0, atol=0)


def test_equal_prefix_keys_mean_equal_prefixes():
    images, _ = tiny_batch()
    by_key = {}
    for case in CASES:
        for readout in ("cls", "mean_no_cls"):
            model, *_ = build(case, readout=readout)
            if model.prefix_key is not None:
                by_key.setdefault(model.prefix_key, []).append(model.prefix(images))
    assert len(by_key) > 2
    for key, (first, *others) in by_key.items():
        for other in others:
            torch.testing.assert_close(first, other, rtol=0, atol=0, msg=str(key))


@every_case
def test_the_order_of_the_prompts_does_not_matter(case):
    model, images, _ = build(case, dtype=torch.float64)
    prompt = getattr(model.tuning, "prompt", None)
    if prompt is None:
        pytest.skip("no prompts in the sequence")
    if case[0] == "vfpt":
        pytest.skip("a Fourier transform over them is one of their order")
    shake(model).eval()
    before = model(images)
    for name in ("prompt", "new_prompt"):
        if (tensor := getattr(model.tuning, name, None)) is not None:
            tensor.data.copy_(tensor.data.flip(-2))
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-10)
    prompt.data[0, 0, 0] += 1.0
    assert (model(images) - before).abs().max() > 1e-6, "prompts have no effect"


@every_case
def test_the_seed_decides_the_start_and_nothing_else_does(case):
    state = torch.get_rng_state()
    first = build(case, seed=5)[0].tuned_state()
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.manual_seed(99)
    again = build(case, seed=5)[0].tuned_state()
    other = build(case, seed=6)[0].tuned_state()
    assert all(first[k].equal(again[k]) for k in first)
    assert any(not first[k].equal(other[k]) for k in first)


@every_case
def test_a_saved_state_gives_the_same_logits(case):
    model, images, _ = build(case)
    shake(model).eval()
    fresh = build(case, seed=1)[0].eval()
    assert not fresh(images).equal(model(images))
    fresh.load_tuned_state({k: v.clone() for k, v in model.saved_state().items()})
    assert fresh(images).equal(model(images))
    assert fresh.num_tuned_parameters == sum(v.numel() for v in model.tuned_state().values())


@every_method
def test_a_state_that_does_not_fit_is_named(name):
    model, *_ = build((name, {}))
    state = {k: v.clone() for k, v in model.tuned_state().items()}
    state["head.weight"] = state["head.weight"][:3]
    state["nonsense"] = state.pop("head.bias")
    untouched = {k: v.clone() for k, v in model.tuned_state().items()}
    with pytest.raises(ValueError) as error:
        model.load_tuned_state(state)
    for word in ("head.bias is missing", "nonsense is unknown", "(3, 24), not (5, 24)"):
        assert word in str(error.value)
    assert all(v.equal(untouched[k]) for k, v in model.tuned_state().items())


@every_case
def test_a_random_draw_happens_in_training_only(case):
    model, images, _ = build(case)
    shake(model).eval()
    assert model(images).equal(model(images))
    model.train()
    is_random = not model(images).equal(model(images))
    settings = dataclasses.asdict(model.method)
    dropped = [share for name, share in settings.items() if name.endswith("dropout")]
    assert is_random == any([*dropped, model.recipe.drop_path])
    if not model.method.trains_backbone:
        assert not any(module.training for module in model.vit.modules())


@every_case
def test_autograd_agrees_with_finite_differences(case):
    if getattr(METHODS[case[0]](**case[1]), "weight", None) == "detached_max":
        pytest.skip("its gradient leaves out a term on purpose")
    model, images, labels = build(case, dtype=torch.float64)
    shake(model).eval()
    _, gradients = loss_and_gradients(model, model(images), labels)
    generator = torch.Generator().manual_seed(2)
    step = 1e-5
    for key, tensor in model.tuned_state().items():
        direction = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        losses = []
        for sign in (1, -2):
            tensor.add_(sign * step * direction)
            losses.append(cross_entropy(model(images), labels).item())
        tensor.add_(step * direction)
        expected = (losses[0] - losses[1]) / (2 * step)
        found = (gradients[key] * direction).sum().item()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7), key


@every_case
def test_works_under_autocast_and_with_a_half_precision_backbone(case):
    model, images, labels = build(case)
    shake(model, 0.05).train()
    torch.manual_seed(0)
    exact = model(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(images)
        cross_entropy(cast, labels).backward()
    torch.testing.assert_close(cast.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    name, options = case
    half = tune(tiny_vit().bfloat16(), METHODS[name](**options), images, num_classes=5)
    assert {v.dtype for v in half.tuned_state().values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=any(map(is_trained, half.vit.parameters()))):
        half(images.bfloat16()).sum().backward()


def is_trained(parameter):
    return parameter.requires_grad


@every_case
def test_recomputing_blocks_changes_nothing(case):
    model, images, labels = build(case)
    shake(model).train()
    torch.manual_seed(0)
    expected, gradients = loss_and_gradients(model, model(images), labels)
    model.checkpoint_blocks = True
    torch.manual_seed(0)
    found, recomputed = loss_and_gradients(model, model(images), labels)
    torch.testing.assert_close(found, expected)
    for key, gradient in gradients.items():
        torch.testing.assert_close(recomputed[key], gradient, msg=key)


@every_method
def test_compiles_as_one_graph_to_the_same_result(name):
    model, images, labels = build((name, {}), depth=2)
    shake(model).eval()
    expected, gradients = loss_and_gradients(model, model(images), labels)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    found, again = loss_and_gradients(model, compiled(images), labels)
    torch.compiler.reset()
    torch.testing.assert_close(found, expected)
    for key, gradient in gradients.items():
        torch.testing.assert_close(again[key], gradient, msg=key)


@every_method
def test_a_method_documents_itself(name):
    kind = METHODS[name]
    assert kind.paper.startswith("https://") and kind.title
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")
    (tree,) = ast.parse(inspect.getsource(kind)).body
    documented = {
        field.target.id
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields <= documented, f"{name}: no words on {fields - documented}"
    shared = fields & {field.name for field in dataclasses.fields(Recipe)}
    assert not shared, f"{name}: a search space could not tell {shared} from the recipe's"


@every_method
def test_a_method_is_a_frozen_value(name):
    method = METHODS[name]()
    assert method == METHODS[name]() and hash(method) == hash(METHODS[name]())
    assert isinstance(method.recipe(), Recipe)
    for field in dataclasses.fields(method):
        with pytest.raises(ValueError, match=field.name):
            METHODS[name](**{field.name: -7})


@every_method
def test_the_optimizer_holds_exactly_what_is_tuned(name):
    model, *_ = build((name, {}))
    optimizer = build_optimizer(model, model.recipe)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    tuned = [p for p in model.parameters() if p.requires_grad]
    assert len(held) == len(tuned) and {*map(id, held)} == {*map(id, tuned)}


@every_method
def test_only_a_method_that_learns_prompts_has_a_length(name: str):
    method = METHODS[name]()
    assert (method.length is not None) == method.learns_prompts

"""Documents of ours as a stranger might change them: a good one, and what others have wrong."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from plans import make_plan

from methods import METHODS, Backbone, Recipe, tune
from orchestrator.bundle.bundle import Bundle, save_bundle
from orchestrator.plan.plan import plan_document
from orchestrator.support.checksum import sha256_of
from orchestrator.support.yaml_io import dump_yaml, parse_yaml
from orchestrator.training.backbone import BackbonePlan
from orchestrator.training.config import TrialConfig, build

GONE = object()
"""Takes a key away."""

CLASSES = ("a cat", "a dog", "a [red]fox[/red]")
CONFIG = {"num_tokens": 2, "deep": True, "epochs": 2, "warmup_epochs": 0, "lr": 0.5}


def write_good_bundle(folder: Path, backbone: Backbone) -> Path:
    """An untrained bundle of `vit_quickstart` that loads and predicts."""
    method, recipe = build("vpt", CONFIG, source="test")
    model = tune(backbone.vit, method, num_classes=len(CLASSES), recipe=recipe)
    tensors = folder / "tensors"
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in model.tuned_state().items()}, tensors
    )
    bundle = Bundle(
        task="pets",
        suite=str(folder / "photos"),
        data_root=None,
        data_seed=0,
        class_names=CLASSES,
        data_fingerprint="0" * 64,
        backbone=BackbonePlan(
            name=backbone.name,
            weights=None,
            weights_sha256=backbone.weights_sha256,
            image_size=backbone.image_size,
            num_parameters=backbone.num_parameters,
            resize="squash",
            interpolation=backbone.interpolation,
            crop_fraction=1.0,
            mean=backbone.mean,
            std=backbone.std,
        ),
        trial=TrialConfig(
            study="pets.vpt_deep", task="pets", number=3, method="vpt", config=CONFIG, seed=7
        ),
        recipe={**asdict(recipe), "readout": model.recipe.readout},
        val_accuracy=0.5,
        num_tuned_parameters=model.num_tuned_parameters,
        device="cpu",
        cpu_threads=1,
        tensors_sha256=sha256_of(tensors),
        sweep="pets",
        versions={"torch": "2.15.0"},
    )
    description, *_ = save_bundle(bundle, folder, tensors)
    tensors.unlink()
    return description


def good_plan() -> dict[str, Any]:
    """The document of a plan with two tasks and two spaces, as `sweep.yaml` has it."""
    plan = make_plan(tasks=("cats", "dogs"), spaces=("linear", "vpt_deep"))
    return parse_yaml(dump_yaml(plan_document(plan)), source="plan")


def changed(document: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with another value at `a.b.0`; a key that is not there yet is added."""
    result = copy.deepcopy(dict(document))
    *way, last = place.split(".")
    inner: Any = result
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    if value is GONE:
        del inner[last]
    elif isinstance(inner, list):
        inner[int(last)] = value
    else:
        inner[last] = value
    return result


HUGE = 10**400
LONG = "x" * 20_000
NAN, INFINITE = float("nan"), float("inf")

NOT_A_NAME = (
    *("", " ", ".", "..", "../up", "/etc/passwd", "a/b", "a\nerror: b", "a\rb", "a\tb"),
    *("\x1b[31mred", "\x9b2J", "a\u202egpj.exe", "a\u2066b", "a\u2028b", "\ufeffa", "a\x7f"),
    *("n" * 256, "ä" * 128, LONG, 7, None, True, 1.5, ["a"], {"a": 1}),
)

_NO_COUNT = (0, -1, NAN, INFINITE, HUGE, -HUGE, True, "2", None, [1], 1.5)
_NO_NUMBER = (NAN, INFINITE, -INFINITE, HUGE, True, "0.5", None, [0.5], {})
_NO_TEXT = (None, 7, True, ["a"], {"a": "b"}, LONG, "a\0b", "\ud800")


def _each(place: str, values: tuple[Any, ...], *, but: tuple[Any, ...] = ()) -> list[Any]:
    return [(place, value) for value in values if not any(value is other for other in but)]


CODE = {
    "name": "toy",
    "origin": "/home/somebody/toy.py",
    "sha256": "a8ef585b954631a6aa33ffdfbef4fb9ac749a57f95143be11a0a2016c86cb781",
    "source": ["raise SystemExit('code of a stranger was run')"],
}
"""A method that nobody named here."""

BAD_BUNDLES: list[tuple[str, Any]] = [
    *_each("format", (GONE, 99, 0, -1, "1", True, 1.0, NAN, None, [1], LONG)),
    *_each("task", NOT_A_NAME),
    *_each("suite", _NO_TEXT),
    *_each("data_root", _NO_TEXT, but=(None,)),
    *_each("data_seed", (2**63, -(2**63) - 1, HUGE, "0", None, True, 0.5)),
    *_each("class_names", (GONE, [], ["one"], "ab", {"a": 1}, None, 7, [1, 2], ["a", None])),
    *_each("class_names.0", _NO_TEXT),
    *_each("data_fingerprint", _NO_TEXT),
    *_each("backbone", (GONE, None, [], "vit", {})),
    *_each("backbone.name", _NO_TEXT),
    *_each("backbone.weights", (7, True, ["a"], "a\0b")),
    *_each("backbone.weights_sha256", (None, 7)),
    *_each("backbone.image_size", (*_NO_COUNT, 2049, 100_000, 10**9)),
    *_each("backbone.num_parameters", _NO_COUNT),
    *_each("backbone.resize", ("stretch", "", None, 7)),
    *_each("backbone.interpolation", ("nearest", "", None, ["bicubic"])),
    *_each("backbone.crop_fraction", (*_NO_NUMBER, 0, -1, 1.1, 1e-9, 5e-324)),
    *_each("backbone.mean", ([], [0.5], [0.5] * 4, 0.5, None, "0.5", {"r": 1})),
    *_each("backbone.mean.1", _NO_NUMBER),
    *_each("backbone.std.1", (*_NO_NUMBER, 0, -0.5, 1e-300)),
    *_each("backbone.patch", (16,)),
    *_each("trial", (GONE, None, [], 7)),
    *_each("trial.study", NOT_A_NAME),
    *_each("trial.task", (*NOT_A_NAME, "another")),
    *_each("trial.number", (-1, HUGE, "3", None, True, 10**10)),
    *_each("trial.method", (*_NO_TEXT, "", "vtp", "__class__", "os.system")),
    *_each("trial.seed", (-1, 2**32, HUGE, "7", None, True)),
    *_each("trial.config", (GONE, None, [], 7, "lr=1")),
    *_each("trial.config.epochs", (*_NO_COUNT, 10**9, 100_001)),
    *_each("trial.config.batch_size", (*_NO_COUNT, 10**9)),
    *_each("trial.config.num_tokens", (*_NO_COUNT, 10**9, 10_001)),
    *_each("trial.config.projection", (0, -1, 10**9, True, 1.5)),
    *_each("trial.config.lr", (*_NO_NUMBER, 0, -1, "abc")),
    *_each("trial.config.dropout", (*_NO_NUMBER, 1, -0.1)),
    *_each("trial.config.warmup_epochs", (*_NO_NUMBER, 2, -1)),
    *_each("trial.config.optimizer", ("adam", None, 7, ["sgd"])),
    *_each("trial.config.deep", (1, "true", None)),
    *_each("trial.config.num_tokns", (2,)),
    *_each("trial.config.__class__", ("x",)),
    *_each("recipe", (GONE, None, [], {"epoch": 2})),
    *_each("recipe.epochs", (*_NO_COUNT, 10**9)),
    *_each("recipe.readout", ("everything", None, 7)),
    *_each("recipe.eps", (*_NO_NUMBER, 0)),
    *_each("val_accuracy", (NAN, INFINITE, -0.1, 1.1, HUGE, "0.5", True, None, GONE)),
    *_each("metric", ("top5", "", "TOP1", None, 7, ["top1"])),
    *_each("baseline", (NAN, INFINITE, -0.1, 1.1, HUGE, "0.5", True)),
    *_each("effective_images", (NAN, INFINITE, 0, -1, HUGE, "72", True)),
    *_each("num_tuned_parameters", _NO_COUNT),
    *_each("device", _NO_TEXT),
    *_each("cpu_threads", (*_NO_COUNT, 100_000, 2**31)),
    *_each("tensors_sha256", (None, 7, True)),
    *_each("sweep", _NO_TEXT),
    *_each("versions", (None, [], "1", {"torch": 2}, {"torch": None})),
    *_each("stage", ("final", "middle", None, 7)),
    *_each("test_accuracies", ([], {"a": 0.5}, {1: 2}, {1: NAN}, {1: "0.5"}, {True: 0.5})),
    *_each("engine", ([], {"precision": "fp8"}, {"attention": 7}, {"eval_every": 0}, {"x": 1})),
    *_each("engine.frozen_cache", (1, "yes", None)),
    *_each("own_method", (7, [], {}, "print()", CODE, {**CODE, "name": "vpt"})),
    *_each("own_method", ({**CODE, "sha256": "ab" * 32},)),
    *_each("epochs", (2,)),
    *_each("__init__", (2,)),
]

BAD_PLANS: list[tuple[str, Any]] = [
    *_each("format", (GONE, 99, "1", True, 1.0, None)),
    *_each("name", NOT_A_NAME),
    *_each("created", ("", "yesterday", "2026-13-45", None, 7, LONG)),
    *_each("suite", _NO_TEXT),
    *_each("data_root", (7, True, ["a"], "a\0b")),
    *_each("tasks", (GONE, None, [], {}, "cats", [None], ["cats"])),
    *_each("tasks.0", ({}, None, [])),
    *_each("tasks.0.name", (*NOT_A_NAME, "dogs", "birds")),
    *_each("tasks.0.group", _NO_TEXT),
    *_each("tasks.0.num_classes", (*_NO_COUNT, 1, 10**9)),
    *_each("tasks.0.num_train", _NO_COUNT),
    *_each("tasks.0.num_val", _NO_COUNT),
    *_each("tasks.0.root", _NO_TEXT),
    *_each("tasks.0.fingerprint", (None, 7)),
    *_each("tasks.0.metric", ("top5", "", None, 7)),
    *_each("tasks.0.val_baseline", (NAN, -0.1, 1.1, "0.5", True)),
    *_each("tasks.0.val_effective_images", (NAN, INFINITE, 0, -1, HUGE, "72", True)),
    *_each("tasks.0.numclasses", (2,)),
    *_each("backbone", (GONE, None, [])),
    *_each("backbone.image_size", (*_NO_COUNT, 10**6)),
    *_each("backbone.std.0", (0, -1, NAN, "0.5")),
    *_each("spaces", (GONE, None, [], {}, {"linear": None}, {"../x": {"method": "linear"}})),
    *_each("spaces.linear", (None, [], {}, {"method": "os.system"}, {"method": ["linear"]})),
    *_each("spaces.linear.fixed", ([], "x", {"epochs": 10**9}, {"epoch": 2}, {"lr": NAN})),
    *_each("spaces.linear.search", ([], {"lr": None}, {"lr": {"low": 1}}, {"lr": {"choices": []}})),
    *_each("spaces.linear.search.lr.high", (NAN, INFINITE, HUGE, "10", None, True, 1e-9)),
    *_each("spaces.linear.search.lr.low", (0, -1, NAN, "1", None)),
    *_each("studies", (GONE, None, [], {}, ["cats.linear"])),
    *_each("studies.0.task", (*NOT_A_NAME, "cat")),
    *_each("studies.0.space", (*NOT_A_NAME, "liner", "vpt_deep")),
    *_each("studies.0.num_trials", (*_NO_COUNT, 10**9)),
    *_each("seed", (HUGE, "0", None, True, 0.5)),
    *_each("sampler", ("grid", None, 7)),
    *_each("pruner", (GONE, None, [], {"name": "median"}, {"first_rung_epochs": 0})),
    *_each("pruner.name", ("asha", None, 7)),
    *_each("pruner.reduction_factor", (*_NO_COUNT, 1)),
    *_each("pruner.first_rung_epochs", _NO_COUNT),
    *_each("engine", ([], {"precision": 7}, {"eval_every": HUGE})),
    *_each("versions", (GONE, None, [], {"torch": 2})),
    *_each("own_methods", (None, [], {"toy": None}, {"toy": CODE}, {"../toy": CODE})),
    *_each("extra", ("x",)),
]

RECIPE_FIELDS = tuple(Recipe.__dataclass_fields__)
METHOD_NAMES = tuple(METHODS)

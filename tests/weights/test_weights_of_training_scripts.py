"""What training scripts put around and beside the weights, and which of several is meant."""

import argparse
import datetime
import pathlib
from collections import defaultdict

import numpy as np
import pytest
import torch
from tiny_weights import features, read, renamed, saved, vit, with_values


@pytest.mark.parametrize(
    "wrapper",
    [
        "model", "state_dict", "model_state_dict", "model_state", "net", "network", "params",
        "weights", "module", "ema_state_dict", "generator", "a.b.c",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "prefix", ["", "module.", "module.module.", "_orig_mod.", "model.backbone.", "visual.trunk."]
)
def test_any_wrapper_and_prefix(wrapper, prefix, state, tmp_path):
    content = {prefix + k: v for k, v in state.items()}
    for word in reversed(wrapper.split(".")):
        content = {word: content, "epoch": 3, "optimizer": {"state": {0: torch.zeros(3)}}}
    filled, _ = read(saved(content, tmp_path / "checkpoint.pth"))
    assert features(filled).equal(features(with_values(state)))


def test_names_between_the_names(state, tmp_path):
    """torch.compile of a block, activation checkpointing and FSDP's wrapping of each."""
    for infix in ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"):
        content = renamed(state, (r"^blocks\.(\d+)\.", rf"blocks.\1.{infix}."))
        filled, _ = read(saved(content, tmp_path / "wrapped.pth"))
        assert features(filled).equal(features(with_values(state)))


def test_what_scripts_put_beside_the_weights_does_no_harm(state, tmp_path):
    content = {
        "model": state,
        "args": argparse.Namespace(lr=1e-3, output=pathlib.PosixPath("/tmp/x"), seed=np.int64(3)),
        "best_acc": np.float64(0.8),
        "acc1": np.float32(0.5),
        "curve": np.arange(3.0),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "when": datetime.datetime(2026, 1, 1),
        "counts": defaultdict(list, {"a": [1]}),
        "torch": torch.__version__,
        "size": torch.Size([2]),
    }
    filled, _ = read(saved(content, tmp_path / "model_best.pth.tar"))
    assert features(filled).equal(features(with_values(state)))


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("teacher", "student"),
        ("state_dict.module.base_encoder", "state_dict.module.momentum_encoder"),
        ("target_encoder", "encoder"),
    ],
)
def test_the_network_that_is_evaluated_is_taken_and_named(meant, other, state, tmp_path):
    def content(shift):
        result = {}
        for path, values in (
            (other, {k: v + shift for k, v in state.items()}),
            (meant, state),
        ):
            top, _, prefix = path.partition(".")
            result.setdefault(top, {}).update(
                {f"{prefix}.{k}" if prefix else k: v for k, v in values.items()}
            )
        return result

    path = saved(content(1.0), tmp_path / "two.pth")
    filled, about = read(path)
    assert features(filled).equal(features(with_values(state)))
    assert meant in about.assumed and repr(other)[:-1] in about.assumed
    _, about = read(saved(content(0.0), tmp_path / "equal.pth"))
    assert "weights under" not in about.assumed, "equal weights leave no choice"


@pytest.mark.parametrize("size", [{"embed_dim": 48}, {"depth": 4}])
def test_a_teacher_of_another_size_is_not_the_student(size, state, tmp_path):
    teacher = vit(**size).state_dict()
    filled, about = read(saved({"student": state, "teacher": teacher}, tmp_path / "kd.pth"))
    assert features(filled).equal(features(with_values(state)))
    assert "the only one of this size" in about.assumed

"""The authors' own code on tiny networks: logits, features, loss and every gradient.

The vectors (made outside this repository, see their README) are read from the shared folder;
without it these tests skip. Tolerances are those of the README.
"""

import pytest
import torch
from reference_vectors import Vectors, equals_published

from methods import METHODS

GATE_CASES = (
    "clamp_high clamp_low closed fixed_temp gates gates_only gates_temps gates_temps_one_prompt"
    " img_pool init_5 neither open prompt_pool small_depth temps_only"
)
CASES = {
    "vpt_sup": "deep deep_large_values deep_project deep_small linear shallow shallow_project",
    "vpt_mae": "deep deep_img_pool deep_large_values deep_prompt_pool deep_small shallow",
    "vpt_moco": "deep deep_large_values deep_small shallow",
    "spt_cls": "deep deep_small shallow",
    "spt_mae": "deep deep_small shallow",
    "gatevpt_mae": GATE_CASES,
    "gatevpt_moco": GATE_CASES,
    "apt_vit": "vit_cls vit_cls_init vit_mean",
}
ALL = [(file, case) for file, cases in CASES.items() for case in cases.split()]


def build_vpt(settings, given):
    if settings["mode"] == "none":
        return METHODS["linear"](), {}
    prompt = given["prompt"]
    projection = prompt.shape[-1] if "proj/weight" in given else None
    method = METHODS["vpt"](
        num_tokens=prompt.shape[1], deep=settings["mode"] == "deep", projection=projection
    )
    return method, {
        "prompt": "tuning.prompt",
        "proj/weight": "tuning.projection.weight",
        "proj/bias": "tuning.projection.bias",
    }


def build_spt(settings, given):
    prompt = given["prompt"]
    method = METHODS["spt"](
        num_tokens=prompt.shape[1], deep=settings["mode"] == "deep", init="uniform"
    )
    return method, {"prompt": "tuning.prompt"}


def build_gatevpt(settings, given):
    method = METHODS["gatevpt"](
        num_tokens=given["prompt"].shape[1],
        gating_depth=len(given.get("gate", ())),
        learn_temperature="temp" in given,
        temperature=settings["fixed_temp"],
    )
    return method, {
        "prompt": "tuning.prompt",
        "gate": "tuning.gate",
        "temp": "tuning.temperatures",
    }


def build_apt(settings, given):
    depth, num_tokens = given["tokens"].shape[:2]
    method = METHODS["apt"](num_tokens=num_tokens, rank=given["down"].shape[1])
    keys = ("tokens", "down", "up", "scale")
    return method, {key: [f"tuning.diffusion.{i}.{key}" for i in range(depth)] for key in keys}


BUILD = {"vpt": build_vpt, "spt": build_spt, "gatevpt": build_gatevpt, "apt": build_apt}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("file", "case"), ALL, ids=["-".join(pair) for pair in ALL])
def test_equals_the_published_code(shared, file, case, dtype):
    vectors = Vectors(shared, file)
    settings = vectors.settings(case)
    given = vectors.tensors(f"case/{case}/param/", dtype)
    method, names = BUILD[file.partition("_")[0]](settings, given)
    # A temperature of 0.01 amplifies rounding.
    loose = 1e-3 if case == "clamp_low" and dtype == torch.float32 else None
    model = equals_published(vectors, case, method, names, dtype, loose=loose)
    expected = vectors.expected(case, dtype)
    if "temp_after" in expected:
        assert model.tuned_state()["tuning.temperatures"].equal(expected["temp_after"])


def test_every_case_is_tried(shared):
    """A file of vectors that gains a case is not passed over in silence."""
    for file, cases in CASES.items():
        present = {k.split("/")[1] for k in Vectors(shared, file).data if "case/" in k}
        assert present == set(cases.split()), file

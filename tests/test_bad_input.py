"""Bad input is one clear error and exit code 2, before anything is started."""

import sys
from pathlib import Path

import pytest
from command_line import without_waiting
from suites import write_suite

from orchestrator.cli import main


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files and folders that the arguments below name."""
    tmp = tmp_path_factory.mktemp("bad")
    found = {"tmp": tmp, "suite": write_suite(tmp / "suite"), "first": tmp / "first"}
    found["first"].mkdir()
    (found["first"] / "sweep.yaml").write_text("format: 1\n")
    found["junk"] = tmp / "junk.safetensors"
    found["junk"].write_bytes(b"not weights")
    found["typo"] = tmp / "typo.yaml"
    found["typo"].write_text("method: vpt\nsearch: {num_tokns: {choices: [1]}}\n")
    found["long"] = tmp / f"{'v' * 230}.yaml"
    found["long"].write_text("method: vpt\nsearch: {num_tokens: {choices: [1]}}\n")
    return found


SWEEP = ["sweep", "{suite}", "--out", "{tmp}/new"]
QUICK = [*SWEEP, "--backbone", "vit_quickstart"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "vtba"], "did you mean 'vtab'"),
        (["sweep", "{tmp}/nowhere"], "nowhere"),
        (SWEEP, "needs --backbone"),
        ([*SWEEP, "--backbone", "resnet50"], "resnet50"),
        ([*SWEEP, "--backbone", "vit_tiny_patch16_224", "--weights", "{junk}"], "junk"),
        ([*SWEEP, "--backbone", "vit_tiny_patch16_224", "--weights", "{tmp}/none.pth"], "none.pth"),
        ([*QUICK, "--tasks", "colours_c"], "did you mean 'colours_"),
        ([*QUICK, "--method", "vpt_dep"], "did you mean 'vpt_deep'"),
        (
            [*QUICK, "--method", "vpt"],
            "did you mean 'vpt_deep', 'vpt_deep_adamw', 'vpt_deep_blocks' or",
        ),
        ([*QUICK, "--method", "VPT-Deep"], "did you mean 'vpt_deep'"),
        ([*QUICK, "--tasks", " , "], "no task is named"),
        ([*QUICK, "--method", "{typo}"], "did you mean 'num_tokens'"),
        ([*QUICK, "--method", "linear", "--method", "linear"], "names one twice"),
        ([*QUICK, "--pruner", "sucessive_halving"], "did you mean 'successive_halving'"),
        ([*QUICK, "--sampler", "tpee"], "did you mean 'tpe'"),
        ([*QUICK, "--slots", "1000"], "do not fit"),
        ([*QUICK, "--trials", "0"], "--trials must be at least 1"),
        ([*QUICK, "--image-size", "33"], "33"),
        ([*QUICK, "--split", "60/30"], "--split '60/30' makes 90"),
        ([*QUICK, "--method", "{long}"], "more than 255 bytes; give the task or the space"),
        (["sweep", "{suite}", "--out", "{first}"], "belongs to another sweep"),
        (["sweep", "{suite}", "--out", "{tmp}"], "is not empty"),
        (["resume", "{tmp}"], "is not a sweep folder"),
        (["resume", "{first}"], "name: is missing"),
        (["status", "{tmp}/nowhere"], "no such sweep folder"),
        (["status", "{first}/sweep.yaml"], "is a file, not the folder of a sweep; the sweep is "),
        (["train", "{junk}"], "junk"),
        (["predict", "{typo}", "image.png"], "is not a bundle"),
    ],
)
def test_bad_input_is_one_clear_error_and_starts_nothing(
    arguments, message, places, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["orchestrator", *(a.format(**places) for a in arguments)])
    before = sorted(places["tmp"].rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        main()
    output = without_waiting(capsys.readouterr().err)
    assert exit_.value.code == 2
    assert output.startswith("error: ")
    assert message in output.replace("\n", " ")
    assert "Traceback" not in output
    assert sorted(places["tmp"].rglob("*")) == before
    assert not (tmp_path / "sweeps").exists()

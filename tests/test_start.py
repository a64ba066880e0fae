"""What is known from options and files alone is told without torch, Ray or MLflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import environment
from synthetic_sweep import synthetic_plan, synthetic_record

from methods import METHODS
from methods.catalogue import FILE
from methods.write_catalogue import document
from orchestrator.cli import COMMANDS
from orchestrator.data.suites import QUICKSTART, QUICKSTART_TASKS, load_suite

HEAVY = ("torch", "timm", "torchvision", "ray", "mlflow", "sklearn", "pandas")
COMMANDS_IN_ONE_PROCESS = f"""
import contextlib, io, json, sys
from orchestrator.cli import main
for line in sys.stdin:
    sys.argv = ["orchestrator", *json.loads(line)]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    print(json.dumps(dict(code=code or 0, said=said.getvalue(), heavy=heavy)))
"""

WRONG = [
    (["swep"], "did you mean 'sweep'"),
    (["sweep", "quickstart", "--trails", "3"], "--trials"),
    (["sweep", "quickstart", "--trials", "many"], "--trials"),
    (["methods", "vptt"], "did you mean 'vpt'"),
    (["methods", "vpt", "num_token=3"], "did you mean 'num_tokens'"),
    (["spaces", "show", "vpt_dep"], "did you mean 'vpt_deep'"),
    (["sweep", "quickstart", "--method", "vpt_dep"], "did you mean 'vpt_deep'"),
    (["sweep", "quickstart", "--method", "/no/such.yaml"], "/no/such.yaml"),
    (["sweep", "quickstart", "--sampler", "tpee"], "did you mean 'tpe'"),
    (["sweep", "quickstart", "--pruner", "medium"], "did you mean 'median'"),
    (["sweep", "quickstart", "--pruner", "none", "--first-rung", "3"], "--first-rung"),
    (["sweep", "quickstart", "--tasks", "digts"], "did you mean 'digits'"),
    (["sweep", "quickstart", "--metric", "top5"], "did you mean 'top1'"),
    (["sweep", "quickstart", "--weights", "/no/such.pth"], "no such file of weights"),
    (["sweep", "quickstart", "--backbone", "vit_tiny_patch16_223"], "'vit_tiny_patch16_224'"),
    (["sweep", "quickstart", "--backbone", "owner/some-vit"], "of the Hugging Face hub"),
    (["sweep", "quickstart", "--gpu-kind", "L4"], "--ray-address"),
    (["sweep", "vtba"], "did you mean 'vtab'"),
    (["sweep", "/no/such"], "/no/such is not a folder"),
    (["data", "check", "/no/such"], "/no/such is not a folder"),
    (["resume", "/no/such"], "no such sweep folder"),
    (["finalize", "/no/such"], "no such sweep folder"),
    (["status", "/no/such"], "no such sweep folder"),
    (["report", "/no/such"], "no such sweep folder"),
    (["compare", "/no/such", "/no/such"], "no such sweep folder"),
    (["export", "/no/such"], "no such sweep folder"),
    (["doctor", "/no/such"], "no such sweep folder"),
    (["ui", "/no/such"], "no such sweep folder"),
    (["predict", "/no/such.yaml", "photo.jpg"], "/no/such.yaml"),
    (["train", "/no/such.yaml"], "/no/such.yaml"),
    (["explain", "/no/such.yaml"], "/no/such.yaml"),
]
HELP = [[command.name, "--help"] for command in COMMANDS]
LISTS = [
    ["--help"],
    ["methods", "--json"],
    ["methods", "vpt"],
    ["spaces", "list"],
    ["spaces", "show", "vpt_deep"],
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    plan = synthetic_plan(tasks=("caltech101",), spaces=("linear", "vpt_deep"), num_trials=5)
    synthetic_record(plan, folder)
    return folder


def looks_at(sweep: Path) -> list[list[str]]:
    return [["status", str(sweep)], ["report", str(sweep)], ["compare", str(sweep), str(sweep)]]


@pytest.fixture(scope="module")
def told(sweep, tmp_path_factory) -> dict[tuple[str, ...], dict[str, Any]]:
    """By its words: how each command ended, what it said, what had been imported by then.

    One process for all, so that the heavy is known to be in none of them.
    """
    asked = [*HELP, *LISTS, *(words for words, _ in WRONG), *looks_at(sweep)]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS_IN_ONE_PROCESS],
        input="".join(json.dumps(words) + "\n" for words in asked),
        env=environment(tmp_path_factory.mktemp("cache")),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    answers = map(json.loads, done.stdout.splitlines())
    return {tuple(words): answer for words, answer in zip(asked, answers, strict=True)}


def said(told, words: list[str], *, code: int = 0) -> str:
    answer = told[tuple(words)]
    assert (answer["code"], answer["heavy"]) == (code, []), answer["said"]
    return answer["said"]


def test_the_list_of_commands_has_a_line_for_each(told):
    lines = said(told, ["--help"]).splitlines()
    for command in COMMANDS:
        assert any(f" {command.name} " in line and command.help in line for line in lines)


@pytest.mark.parametrize("words", HELP, ids=lambda words: words[0])
def test_help_of_a_command_needs_nothing_heavy(words, told):
    assert f"Usage: orchestrator {words[0]}" in said(told, words)


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_by_its_name_is_told_before_anything_heavy(words, expected, told):
    assert expected in " ".join(said(told, words, code=2).split())


def test_methods_and_spaces_are_listed(told):
    rows = json.loads(said(told, ["methods", "--json"]))
    assert [row["method"] for row in rows] == [*METHODS.shipped]
    assert "460,800 parameters" in said(told, ["methods", "vpt"])
    assert "vpt_deep" in said(told, ["spaces", "list"])
    assert "num_tokens" in said(told, ["spaces", "show", "vpt_deep"])


def test_a_sweep_is_looked_at_without_what_computes(told, sweep):
    for words in looks_at(sweep):
        assert "vpt_deep" in said(told, words)


def test_the_tasks_of_the_quickstart_are_known_before_they_are_drawn():
    assert {task.name for task in load_suite(QUICKSTART).tasks} == {*QUICKSTART_TASKS}


def test_the_catalogue_says_what_the_classes_say():
    written = json.loads(FILE.read_text(encoding="utf-8"))
    assert written == document(), "run: python -m methods.write_catalogue"

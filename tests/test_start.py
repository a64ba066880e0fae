"""What is known from options and files alone is told without torch, Ray or MLflow."""

import json
import subprocess
import sys

import pytest

from methods import METHODS
from methods.catalogue import FILE
from methods.write_catalogue import document
from orchestrator.cli import COMMANDS

HEAVY = ("torch", "timm", "torchvision", "ray", "mlflow", "sklearn", "pandas")
COMMAND = f"""
import sys
sys.argv[0] = "orchestrator"
from orchestrator.cli import main
try:
    main()
finally:
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    print("imported:", *heavy, file=sys.stderr)
"""


def run(*arguments: object, code: int = 0) -> str:
    """What a command printed, which needed nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    assert done.stderr.splitlines()[-1] == "imported:", printed
    return printed


def test_the_list_of_commands_has_a_line_for_each():
    lines = run("--help").splitlines()
    for command in COMMANDS:
        assert any(f" {command.name} " in line and command.help in line for line in lines)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_answers_at_once(command):
    assert "Usage: orchestrator " + command.name in run(command.name, "--help")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["swep"], "did you mean 'sweep'"),
        (["sweep", "quickstart", "--trails", "3"], "--trials"),
        (["sweep", "quickstart", "--trials", "many"], "--trials"),
        (["methods", "vptt"], "did you mean 'vpt'"),
        (["methods", "vpt", "num_token=3"], "did you mean 'num_tokens'"),
        (["spaces", "show", "vpt_dep"], "did you mean 'vpt_deep'"),
    ],
)
def test_what_is_wrong_with_a_name_or_an_option_is_told_at_once(arguments, told):
    assert told in run(*arguments, code=2)


def test_methods_and_spaces_are_listed_at_once():
    assert "460,800 parameters" in run("methods", "vpt")
    assert [row["method"] for row in json.loads(_json(run("methods", "--json")))] == [*METHODS]
    assert "vpt_deep" in run("spaces", "list")
    assert "num_tokens" in run("spaces", "show", "vpt_deep")


def _json(printed: str) -> str:
    return printed.partition("imported:")[0]


def test_the_catalogue_says_what_the_classes_say():
    written = json.loads(FILE.read_text(encoding="utf-8"))
    assert written == document(), "run: python -m methods.write_catalogue"

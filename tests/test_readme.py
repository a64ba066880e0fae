"""What the README tells a user to type exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from orchestrator.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every `orchestrator ...` line of a bash block, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("orchestrator ")]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_is_one_of_ours(line: str):
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("orchestrator", [], resilient_parsing=True)
    while hasattr(command, "commands") and words:
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context, resilient_parsing=True)
        command = context.command
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"{line}: unknown {used - known}"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile

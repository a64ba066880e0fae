"""What the README tells a user to type exists, and what needs no download works as it stands."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from command_line import environment, run
from suites import write_photos

from orchestrator.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(section: str = "# Visual") -> list[str]:
    """Every `orchestrator ...` line of the bash blocks from a heading on; continuations joined."""
    text = README[README.index(section) :]
    if section.startswith("## "):
        text = text[: text.index("\n## ", 1)]
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("orchestrator ")]


LOOK = "## Stop, go on, look, use"
SWEEP = "sweeps/photos-20261121-120000"


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


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's folder after the README's sweep of ./photos, with the backbone that is shipped."""
    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos", cat=12, dog=12)
    write_photos(home / "labelled", cat=4, dog=4)
    shutil.copytree(home / "photos" / "cat", home / "new")
    run(
        "sweep", "./photos", "--backbone", "vit_quickstart", "--method", "linear", "--trials", 2,
        "--epochs", 2, "--engine", "local", "--out", SWEEP, tmp=home, cwd=home,
    )  # fmt: skip
    for name in ("a", "b"):
        shutil.copytree(home / SWEEP, home / "sweeps" / f"photos-{name}")
    return home


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.mlflow
def test_looking_at_a_sweep_and_using_it_works_as_it_stands(home):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = commands(LOOK)
    assert {line.split()[1] for line in lines} >= {"resume", "ui", "finalize", "export", "predict"}
    for line in lines:
        with subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            env={**environment(home), "PATH": programs},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            printed = ""
            for text in process.stdout:
                printed += text
                if "http://127.0.0.1" in text:  # it serves until somebody has seen enough
                    process.send_signal(signal.SIGINT)
            assert process.wait(300) == 0, f"{line}\n{printed}"
    for place in ("best/photos.yaml", "final/photos.yaml", "report.html"):
        assert (home / SWEEP / place).is_file()


@pytest.mark.slow
def test_a_folder_of_photos_is_checked_as_it_stands(home):
    (line,) = (line for line in commands() if line.startswith("orchestrator data check"))
    assert "cat" in run(*shlex.split(line)[1:], tmp=home, cwd=home)

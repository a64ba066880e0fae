"""What a sweep ends with can be typed as it is printed."""

import os
import subprocess
import sys
from pathlib import Path

from command_line import environment

from orchestrator.cli.next_steps import activating, after_a_search

SCRIPTS = Path(sys.executable).parent


def test_what_is_typed_next_runs_in_a_shell_without_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    head, *commands = after_a_search(tmp_path / "sweeps" / "photos of mine")
    assert head == "next:"
    script = "\n".join(line.replace(" # ", " --help # ") for line in commands)
    done = subprocess.run(
        ["sh", "-ec", script], env={**environment(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: orchestrator") == 3


def test_an_environment_that_is_active_is_not_activated_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{SCRIPTS}{os.pathsep}/usr/bin")
    assert activating() is None
    assert not any("activate" in line for line in after_a_search(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert activating() == f". {SCRIPTS / 'activate'}"

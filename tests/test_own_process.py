"""Our processes find our packages, whatever lies in the folder that they are started in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

THEIRS = "raise ImportError('a file of the user')\n"
NAMES = ("methods/__init__", "search_spaces/__init__", "timm/__init__", "typer/__init__", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    for name in NAMES:
        path = found / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(THEIRS)
    return found


def run(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMP_"))}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", [None, "", ":", ".", "HERE", "/nowhere::"])
def test_the_current_folder_is_not_looked_into(folder: Path, path: str | None):
    variables = {} if path is None else {"PYTHONPATH": path.replace("HERE", str(folder))}
    done = run("-m", "orchestrator", "--help", folder=folder, **variables)
    assert done.returncode == 0, done.stderr
    assert "resume" in done.stdout


@pytest.mark.slow
def test_a_command_works_beside_packages_of_the_same_names(folder: Path):
    done = run("-m", "orchestrator", "spaces", "show", "linear", folder=folder)
    assert "method linear" in done.stdout, done.stderr


OURS = """
import os, sys
sys.argv = ["/somewhere/bin/orchestrator"]
import orchestrator
from importlib.util import find_spec
print(find_spec("methods").origin, end=" ")
print(sys.path.count(os.environ["THEIRS"]), os.environ["OMP_WAIT_POLICY"])
print(os.environ.get("PYTHONPATH"), os.environ["PYTHONSAFEPATH"])
"""


def test_a_folder_on_the_path_that_hides_our_packages_comes_after_them(
    folder: Path, tmp_path: Path
):
    """As for the command, which is called `orchestrator`."""
    variables = {"PYTHONPATH": str(folder), "THEIRS": str(folder)}
    done = run("-c", OURS, folder=tmp_path, **variables)
    first, second = done.stdout.splitlines()
    assert str(folder / "methods") not in first
    assert first.endswith(" 1 PASSIVE"), "the user put it there"
    assert second == f"{folder} 1"


def test_a_users_own_setting_of_threads_is_kept(folder: Path):
    variables = {"THEIRS": str(folder), "OMP_WAIT_POLICY": "ACTIVE"}
    done = run("-c", OURS, folder=folder, PYTHONSAFEPATH="1", **variables)
    assert " 0 ACTIVE" in done.stdout


LIBRARY = """
import os, sys
before = dict(os.environ), list(sys.path)
import orchestrator
assert (dict(os.environ), list(sys.path)) == before
print("unchanged")
"""


def test_a_process_of_somebody_else_is_not_changed(tmp_path: Path):
    assert run("-c", LIBRARY, folder=tmp_path).stdout == "unchanged\n"


def test_a_script_beside_a_package_of_the_same_name_is_told(tmp_path: Path):
    (tmp_path / "methods.py").write_text("OWN = 1\n")
    script = tmp_path / "analyse.py"
    script.write_text("import methods\nfrom orchestrator.bundle import load_bundle\n")
    done = run(str(script), folder=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"ImportError: {tmp_path}/methods.py hides the package 'methods' that "
        "visual-prompt-orchestrator needs: rename it, or run your program from another folder"
    )

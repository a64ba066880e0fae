"""The contracts of `[tool.importlinter]` hold here, and fail where they are broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Our sources, to be changed."""
    for package in ("orchestrator", "methods"):
        for file in sorted((ROOT / package).rglob("*.py")):
            place = tmp_path / file.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(root: Path) -> set[str]:
    """What `lint-imports` finds broken; it must have come to its end."""
    command = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([command, "--no-cache"], cwd=root, capture_output=True, text=True)
    lines = checked.stdout.splitlines()
    assert any(line.startswith("Contracts: ") for line in lines), checked.stdout + checked.stderr
    broken = {line.removesuffix(" BROKEN") for line in lines if line.endswith(" BROKEN")}
    assert bool(broken) == bool(checked.returncode)
    return broken


def test_the_order_of_the_rooms_holds(copy):
    assert broken_contracts(copy) == set()


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("orchestrator/plan", "import orchestrator.run", "Rooms import downward only"),
        ("orchestrator/bundle", "import orchestrator.report", "Rooms import downward only"),
        ("orchestrator/training", "import optuna", "A trial knows no Ray, Optuna, MLflow or SQL"),
        ("orchestrator/record", "import ray", "The doors to Ray"),
        ("orchestrator/run", "import optuna", "The doors to Optuna"),
        ("orchestrator/run", "import mlflow", "The doors to MLflow"),
        ("orchestrator/tracking", "import mlflow", "The doors to MLflow"),
        (
            "orchestrator/tracking",
            "import orchestrator.tracking.mlflow.store",
            "The doors to the tracker that is MLflow",
        ),
        ("orchestrator/report", "import sqlalchemy", "The doors to SQL"),
        ("orchestrator/run", "import typer", "The doors to Typer and Rich"),
        ("orchestrator/api", "import rich", "The doors to Typer and Rich"),
        ("methods", "import orchestrator.training", "Methods know nothing of the orchestrator"),
    ],
)
def test_an_import_against_the_order_breaks_its_contract(copy, package, line, contract):
    (copy / package / "newcomer.py").write_text(f"{line}\n")
    assert contract in broken_contracts(copy)


def test_a_circle_breaks_its_contract(copy):
    for one, other in (("alpha", "beta"), ("beta", "alpha")):
        text = f"import orchestrator.support.{other}\n"
        (copy / "orchestrator" / "support" / f"{one}.py").write_text(text)
    assert broken_contracts(copy) == {"No circles"}


def test_a_new_room_must_be_given_its_place(copy):
    (copy / "orchestrator" / "attic").mkdir()
    (copy / "orchestrator" / "attic" / "__init__.py").touch()
    assert broken_contracts(copy) == {"Rooms import downward only"}

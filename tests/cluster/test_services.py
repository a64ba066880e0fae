"""PostgreSQL and MLflow of a head: found by environment, started again when killed, backed up."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from suites import write_suite

from orchestrator.cluster.postgres import postgres_programs
from orchestrator.cluster.services import Services, Settings

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.timeout(1800),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    try:
        postgres_programs()
    except ValueError as error:
        pytest.skip(str(error))
    # Not in pytest's own folder, which the account of the database may not enter.
    made = Path(tempfile.mkdtemp(prefix="services-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def settings() -> Settings:
    return Settings(postgres_port=free_port(), mlflow_port=free_port())


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[Services]:
    started = Services(folder / "services", settings())
    started.start()
    yield started
    started.stop()


def orchestrator(services: Services, tmp: Path, *arguments: object, code: int = 0) -> str:
    """A command in a shell that has read the services' environment file."""
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MLFLOW_", "ORCHESTRATOR_", "RAY_"))
    }
    words = [sys.executable, "-m", "orchestrator", *map(str, arguments)]
    done = subprocess.run(
        ["bash", "-c", f'. "{services.folder}/environment" && exec "$@"', "bash", *words],
        env={**clean, "ORCHESTRATOR_CACHE": str(tmp / "cache"), "COLUMNS": "200"},
        cwd=tmp,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_the_storage_alone_is_enough_to_see_and_to_resume_a_sweep(
    services: Services, tmp_path: Path
):
    suite = write_suite(tmp_path / "suite", ("colours",))
    small = ("--backbone", "vit_quickstart", "--method", "linear", "--trials", "3", "--epochs", "3")
    first = tmp_path / "here" / "colours"
    orchestrator(services, tmp_path, "sweep", suite, *small, "--out", first)
    assert not list(first.glob("*.db")), "something was written beside the services"
    tracked = mlflow.MlflowClient(services.tracking_uri)
    assert tracked.get_experiment_by_name("colours") is not None
    seen = orchestrator(services, tmp_path, "status", first, "--json")
    prompts = (first / "best" / "colours.safetensors").read_bytes()
    shutil.rmtree(first.parent)

    assert orchestrator(services, tmp_path, "status", "colours", "--json") == seen
    there = tmp_path / "there" / "colours"
    orchestrator(services, tmp_path, "resume", there)
    assert (there / "best" / "colours.safetensors").read_bytes() == prompts
    assert orchestrator(services, tmp_path, "status", there, "--json") == seen
    refused = orchestrator(services, tmp_path, "status", "colour", code=2)
    assert not refused


def test_the_doctor_says_what_is_reached(services: Services, tmp_path: Path):
    found = json.loads(orchestrator(services, tmp_path, "doctor", "--cluster", "--json", code=1))
    assert {part["part"]: part["reached"] for part in found} == {
        "storage": True,
        "MLflow": True,
        "Ray": False,
    }
    assert "RAY_ADDRESS is not set" in found[-1]["text"]


def wait_for_new(services: Services, name: str, earlier: dict[str, Any]) -> None:
    deadline = time.monotonic() + 120
    while True:
        now = services.status()[name]
        if now["answers"] and now["pid"] != earlier["pid"]:
            return
        assert time.monotonic() < deadline, f"{name} stays away"
        time.sleep(0.5)


@pytest.mark.parametrize("name", ["postgres", "mlflow"])
def test_what_is_killed_is_started_again(services: Services, name: str):
    earlier = services.status()[name]
    os.killpg(earlier["pid"], signal.SIGKILL)
    wait_for_new(services, name, earlier)
    assert services.status()[name]["starts"] == earlier["starts"] + 1


def test_starting_again_changes_nothing(services: Services):
    before = services.status()
    Services.open(services.folder).start()
    assert services.status() == before


def test_the_password_is_for_its_owner_and_in_no_address(services: Services):
    pgpass = services.folder / "pgpass"
    assert pgpass.stat().st_mode & 0o777 == 0o600
    password = pgpass.read_text().strip().rpartition(":")[2]
    shown = json.dumps(services.status()) + (services.folder / "environment").read_text()
    assert password not in shown


def test_a_backup_is_what_new_services_begin_with(services: Services, folder: Path):
    services.postgres.ask("studies", "CREATE TABLE kept (answer int); INSERT INTO kept VALUES (42)")
    backup = services.backup(folder / "backup.tar")
    with pytest.raises(ValueError, match="holds data already"):
        services.start(backup=backup)
    restored = Services(folder / "restored", settings())
    try:
        restored.start(backup=backup)
        assert restored.postgres.ask("studies", "SELECT answer FROM kept") == "42\n"
        names = [e.name for e in mlflow.MlflowClient(restored.tracking_uri).search_experiments()]
        assert names
    finally:
        restored.stop()
    assert not restored.status()["postgres"]["answers"]


def test_where_mlflow_cannot_come_up_nothing_is_left_running(folder, tmp_path, monkeypatch):
    (tmp_path / "mlflow.py").write_text("raise SystemExit('this MLflow is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = Services(folder / "broken", settings())
    with pytest.raises(ValueError, match=r"(?s)MLflow does not answer.*this MLflow is broken"):
        broken.start()
    assert broken.supervisor_pid() is None
    monkeypatch.delenv("PYTHONPATH")
    broken.start()  # what the one before could not start counts no more
    broken.stop()
    assert not any(about["answers"] for about in broken.status().values())

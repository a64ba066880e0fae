"""A cluster of several hosts loses a worker and its head, and the sweep ends as if it had not."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hosts import Host, Network, missing, network

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

OWN_MACHINES = Path(__file__).parents[2] / "docs" / "cluster" / "own-machines.yaml"
NUM_TRIALS = 24
"""So many that the second worker comes to its turn before all is done."""
SWEEP = (
    "quickstart --tasks digits --method linear --method vpt_deep --trials 12 --epochs 20 "
    "--cpus-per-trial 1"
)


class Laptop:
    """Where `ray up` is typed. It is no part of the cluster."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.home = net.folder / "laptop"
        (self.home / ".ray").mkdir(parents=True)
        self.config = self.home / "cluster.yaml"
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("RAY_", "MLFLOW_", "ORCHESTRATOR_"))
        }
        self._environment = {
            **clean,
            "HOME": str(self.home),
            "PATH": f"{sys.prefix}/bin:{clean['PATH']}",
            "RAY_TMPDIR": str(self.home),  # where `ray up` remembers its clusters
        }
        self.run("ray", "get-auth-token", "--generate")

    def run(self, *command: str, environment: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            command,
            env={**self._environment, **(environment or {})},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def up(self, head: str, workers: Sequence[str]) -> None:
        """`ray up` of the file that we ship, with these machines, on which all is installed."""
        config: dict[str, Any] = yaml.safe_load(OWN_MACHINES.read_text())
        config["provider"] |= {"head_ip": head, "worker_ips": [*workers]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.net.key)}
        token = str(self.home / ".ray" / "auth_token")
        config["file_mounts"] = {"~/.ray/auth_token": token}
        installs = ("pip install", "python3 -m venv")
        config["setup_commands"] = [
            line for line in config["setup_commands"] if not any(word in line for word in installs)
        ]
        config["head_start_ray_commands"] = [
            line for line in config["head_start_ray_commands"] if "services" not in line
        ]
        self.config.write_text(yaml.safe_dump(config))
        self.run("ray", "up", "-y", "--no-config-cache", str(self.config))


@dataclass
class Store:
    """The machine with PostgreSQL and MLflow, which stays."""

    host: Host
    url: str
    tracking_uri: str

    def give_to(self, head: Host) -> None:
        folder = head.home / "services"
        folder.mkdir()
        (folder / "environment").write_text(
            f"export ORCHESTRATOR_STORAGE='{self.url}'\n"
            f"export MLFLOW_TRACKING_URI='{self.tracking_uri}'\n"
        )

    def trials(self) -> list[tuple[str, optuna.trial.FrozenTrial]]:
        """With the names of their studies."""
        try:
            names = optuna.get_all_study_names(self.storage)
        except Exception:  # the sweep is just making its tables
            return []
        found = [optuna.load_study(study_name=name, storage=self.storage) for name in names]
        return [(study.study_name, trial) for study in found for trial in study.get_trials()]

    @functools.cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        """One for all questions: each new one would keep a connection until it is collected."""
        return optuna.storages.RDBStorage(
            self.url, skip_table_creation=True, skip_compatibility_check=True
        )

    def finished_on(self, host: Host) -> int:
        return sum(
            trial.state.is_finished() and trial.user_attrs["facts"]["host"] == host.name
            for _, trial in self.trials()
        )

    def finished(self) -> dict[tuple[str, int], optuna.trial.FrozenTrial]:
        found = {(name, t.number): t for name, t in self.trials() if t.state.is_finished()}
        return found

    def num_running(self) -> int:
        return sum(not trial.state.is_finished() for _, trial in self.trials())


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def store(net: Network) -> Store:
    host = net.start("store", 9)
    host.run(
        f"~/env/bin/orchestrator services start --host {host.address} --folder ~/services",
        timeout=300,
    )
    password = (host.home / "services" / "pgpass").read_text().strip().rpartition(":")[2]
    return Store(
        host=host,
        url=f"postgresql+psycopg://orchestrator:{password}@{host.address}:5432/studies",
        tracking_uri=f"http://{host.address}:5000",
    )


def wait(what: str, condition: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.5)


def wait_for_answer(call: Callable[[], str], *, refused: str) -> str:
    """What `call` says once it is not refused any more."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return call()
        except AssertionError as error:
            if refused not in str(error):
                raise
            assert time.monotonic() < deadline, f"still {refused}"
            time.sleep(3)


def num_nodes(head: Host) -> int:
    count = "import ray; ray.init('auto', log_to_driver=False); n = ray.nodes()"
    script = f"{count}; print('nodes:', sum(x['Alive'] for x in n))"
    output = head.run(f'python -c "{script}"')
    return int(output.rpartition("nodes: ")[2].split()[0])


def test_a_sweep_survives_the_loss_of_a_worker_and_of_the_head(net: Network, store: Store):
    laptop = Laptop(net)
    head, first = net.start("head", 2), net.start("first", 3)
    store.give_to(head)
    # The second worker is not switched on yet.
    laptop.up(head.address, [first.address, net.address_of(4)])
    wait("the first worker", lambda: num_nodes(head) == 2)

    sweep = head.ssh(f"orchestrator sweep {SWEEP} --out ~/sweeps/fleet > ~/log 2>&1")
    log = head.home / "log"

    def is_running() -> bool:
        assert sweep.poll() is None, log.read_text()
        return True

    second = net.start("second", 4)
    wait("a trial of the first worker", lambda: is_running() and store.finished_on(first))
    wait("the second worker", lambda: is_running() and num_nodes(head) == 3)
    wait("a trial that runs", lambda: is_running() and store.num_running())
    first.kill()
    wait("a trial of the second worker", lambda: is_running() and store.finished_on(second))
    wait("a trial that runs", lambda: is_running() and store.num_running())
    before = {key: trial.values for key, trial in store.finished().items()}
    head.kill()

    new_head = net.start("new-head", 5)
    store.give_to(new_head)
    laptop.up(new_head.address, [second.address])
    wait("the second worker", lambda: num_nodes(new_head) == 2)
    # The server lets go of a driver whose machine is gone without a word within a minute.
    resumed = wait_for_answer(
        lambda: new_head.run("orchestrator resume ~/sweeps/fleet --slots 4", timeout=1200),
        refused="is being run by",
    )
    assert f"{NUM_TRIALS}/{NUM_TRIALS} trials" in resumed
    finished = store.finished()
    assert len(finished) == NUM_TRIALS
    assert {key: finished[key].values for key in before} == before, "a finished trial ran again"

    exported = json.loads(new_head.run("orchestrator export ~/sweeps/fleet --json"))
    assert not exported["missing"]
    best = new_head.home / "sweeps" / "fleet" / "best"
    assert (best / "digits.yaml").is_file()
    assert (best / "digits.safetensors").is_file()
    rows = json.loads(
        laptop.run("orchestrator", "status", "fleet", "--storage", store.url, "--json")
    )
    assert sum(row["complete"] + row["pruned"] for row in rows) == NUM_TRIALS

    laptop.run("ray", "down", "-y", str(laptop.config))
    # The local provider stops the head's Ray; a worker's ends when it misses its head.
    for host in (new_head, second):
        wait(f"the end of Ray on {host.name}", lambda h=host: not h.runs("raylet"))

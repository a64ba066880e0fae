"""What a cluster has, what it may come to have, and whether its parts can be reached."""

import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from orchestrator.cluster.slots import Machine, in_all
from orchestrator.tracking.mlflow.server import MLFLOW_ENVIRONMENT

_PASSED_ON = ("ORCHESTRATOR_STORAGE", "ORCHESTRATOR_CACHE", "MLFLOW_TRACKING_URI")

AGENT_SECONDS = 120
"""A cluster that has just been started takes jobs only when its agents are there."""

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster's file on its head."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of a cluster."""

    part: str
    reached: bool
    text: str


def may_have(config: Mapping[str, Any], gpu_kind: str | None = None) -> list[Machine]:
    """The workers that the autoscaler of this cluster file may start; only those of a kind."""
    left, machines = config.get("max_workers", 0), []
    for number, machine in _types(config):
        if gpu_kind in (None, machine.gpu_kind):
            number = left if number is None else min(left, number)
            machines += [machine] * number
            left -= number
    return machines


def _types(config: Mapping[str, Any]) -> list[tuple[int | None, Machine]]:
    """Of workers, those with most GPUs first, with how many there may be of each."""
    head = config.get("head_node_type")
    kinds = [kind for name, kind in config.get("available_node_types", {}).items() if name != head]
    types = [(kind.get("max_workers"), Machine.of_ray(kind["resources"])) for kind in kinds]
    return sorted(types, key=lambda found: found[1].gpus, reverse=True)


def grown(machines: Sequence[Machine], gpu_kind: str | None = None) -> list[Machine]:
    """These, and what this head's autoscaler may start beside them; only those of a kind."""
    kinds = {(machine.cpus, machine.gpus): machine.gpu_kind for machine in machines}
    possible = [
        # A cluster's file need not name the kind of GPU that its machines turn out to have.
        replace(m, gpu_kind=m.gpu_kind or kinds.get((m.cpus, m.gpus)))
        for m in may_have(_own_config(), gpu_kind)
    ]
    now = [machine for machine in machines if gpu_kind in (None, machine.gpu_kind)]
    return list((Counter(now) | Counter(possible)).elements())


def gpu_kinds(machines: Sequence[Machine]) -> set[str]:
    """Of these, and of what this head's autoscaler may start."""
    possible = [*machines, *(machine for _, machine in _types(_own_config()))]
    return {machine.gpu_kind for machine in possible if machine.gpu_kind}


def _own_config() -> Mapping[str, Any]:
    path = BOOTSTRAP_CONFIG.expanduser()
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def reach(
    storage_url: str | None, tracking_uri: str | None, ray_address: str | None
) -> list[Finding]:
    """Whether storage, MLflow and Ray answer, as a sweep started here would find them."""
    return [
        _find("storage", storage_url, "ORCHESTRATOR_STORAGE", _reach_storage),
        _find("MLflow", tracking_uri, "MLFLOW_TRACKING_URI", _reach_mlflow),
        _find("Ray", ray_address, "RAY_ADDRESS", _reach_ray),
    ]


def submit(arguments: Sequence[str], *, name: str, ray_address: str) -> str:
    """Run an `orchestrator` command on the head as a Ray job, which goes on when we end; its id."""
    from ray.job_submission import JobSubmissionClient

    from orchestrator.tracking.mlflow.store import redacted

    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    for text in (*environment.values(), *arguments):
        if "://" in text and urlsplit(text).password is not None:
            raise ValueError(
                f"{redacted(text)}: Ray would show this with the job; put the password into a "
                "file (postgresql+psycopg://USER@HOST/studies?passfile=FILE)"
            )
    command = shlex.join([sys.executable, "-m", "orchestrator", *arguments])
    if "://" not in ray_address:  # else it is the dashboard's, which answers or refuses at once
        from orchestrator.cluster.joined_ray import find

        find(ray_address)
    try:
        client = JobSubmissionClient(ray_address)
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Ray at {ray_address} takes no job: {reason}") from error
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=f"cd {shlex.quote(str(Path.cwd()))} && exec {command}",
                submission_id=f"{name}-{datetime.now():%H%M%S}",
                runtime_env={"env_vars": environment},
            )
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                reason = str(error).splitlines()[0]
                raise ValueError(f"Ray at {ray_address} takes no job: {reason}") from error
            time.sleep(1)


def _find(part: str, address: str | None, variable: str, look: Callable[[str], str]) -> Finding:
    if not address:
        text = f"{variable} is not set: a sweep would make its own on this machine"
        return Finding(part=part, reached=False, text=text)
    try:
        return Finding(part=part, reached=True, text=look(address))
    except Exception as error:  # three libraries and their transports raise many kinds
        reason = str(error).strip() or type(error).__name__
        return Finding(part=part, reached=False, text=reason.splitlines()[0])


def _reach_storage(url: str) -> str:
    import optuna

    from orchestrator.record.database import open_storage, without_password

    names = optuna.get_all_study_names(open_storage(url))
    sweeps = {name.partition("/")[0] for name in names}
    return f"{without_password(url)} answers and holds {len(sweeps)} sweeps"


def _reach_mlflow(uri: str) -> str:
    from orchestrator.tracking.mlflow.store import redacted

    if uri.startswith("http"):
        seconds = float(MLFLOW_ENVIRONMENT["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds):  # noqa: S310
                return f"{redacted(uri)} answers"
        except (urllib.error.URLError, OSError) as error:
            raise ValueError(f"{redacted(uri)} does not answer: {error}") from None
    return f"{redacted(uri)} is written to directly"


def _reach_ray(address: str) -> str:
    import ray

    from orchestrator.cluster.joined_ray import connect
    from orchestrator.cluster.sharing import current_claims, machines_alive

    connect(address)
    machines = machines_alive()
    sweeps = sorted(claim.sweep for claim in current_claims().values())
    ray.shutdown()
    return (
        f"{address} answers: {len(machines)} nodes with {_told(machines)}; "
        f"it may have {_told(grown(machines))}; sweeps running on it: {', '.join(sweeps) or 'none'}"
    )


def _told(machines: Sequence[Machine]) -> str:
    total = in_all(machines)
    kinds = [f"{n:g} {name[4:]}" for name, n in sorted(total.items()) if name.startswith("GPU:")]
    of_kinds = f" ({', '.join(kinds)})" if kinds else ""
    return f"{total['CPU']:g} CPUs and {total['GPU']:g} GPUs{of_kinds}"

"""An `orchestrator` command that runs on the head of a cluster, as a Ray job."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

_PASSED_ON = ("ORCHESTRATOR_STORAGE", "ORCHESTRATOR_CACHE")

AGENT_SECONDS = 120
"""A cluster that has just been started takes jobs only when its agents are there."""


def submit(arguments: Sequence[str], *, name: str, ray_address: str) -> str:
    """Run an `orchestrator` command on the head as a Ray job, which goes on when we end; its id."""
    from ray.job_submission import JobSubmissionClient

    from orchestrator.support.addresses import redacted
    from orchestrator.tracking.trackers import chosen_tracker

    passed_on = (*_PASSED_ON, chosen_tracker().variable)
    environment = {key: os.environ[key] for key in passed_on if key in os.environ}
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

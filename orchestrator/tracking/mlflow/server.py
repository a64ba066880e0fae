"""How we run an MLflow server, and what we set in the environment of all that speaks MLflow."""

import os
import sys

MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # it would write to the terminal
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # its own would take four minutes; we try again later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""How we use MLflow, where the user's own environment says nothing else."""


def server_command(uri: str, artifacts: str, host: str, port: int) -> list[str]:
    """A server over the database at `uri`, with one worker process."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", host, "--port", str(port), "--backend-store-uri", uri]
    return [*command, "--artifacts-destination", artifacts]


def server_environment() -> dict[str, str]:
    """Ours, where the user's says nothing else."""
    # Jobs are of no use here, and cost nine processes.
    return {**MLFLOW_ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}

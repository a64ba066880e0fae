"""A Ray cluster on this machine: a head that also trains and takes jobs, and further nodes."""

import os
import socket
import subprocess
import sys
from pathlib import Path


class Cluster:
    """Commands run as by a user of its own, whose home is `folder`."""

    def __init__(self, folder: Path, *, num_cpus: int) -> None:
        """`folder` is a short path, since Ray makes sockets below it."""
        self.folder = folder
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MLFLOW_", "ORCHESTRATOR_", "RAY_"))
        }
        self.environment = {
            **clean,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
            "ORCHESTRATOR_CACHE": str(folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "COLUMNS": "200",
        }
        self.run("ray", "get-auth-token", "--generate")
        port, dashboard, agent = _free_ports(3)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        options = {
            "port": port,
            "node-ip-address": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,  # or another Ray here may have it
            "num-cpus": num_cpus,
            "temp-dir": folder / "ray",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        self._nodes = [self._start("--head", *words)]

    def add_node(self, *options: str) -> None:
        """A node with what `ray start` is told in `options`."""
        address = f"--address={self.environment['RAY_ADDRESS']}"
        self._nodes.append(self._start(address, *options))

    def run(self, *command: object, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        for node in reversed(self._nodes):
            node.terminate()
            node.wait(120)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["ray", "start", "--block", *options],
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports

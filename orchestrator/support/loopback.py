"""Servers of this machine: asked directly, whatever proxy is named; where one may listen."""

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ask_directly(hosts: Iterable[str] = LOOPBACK) -> None:
    """Add hosts to NO_PROXY, which urllib, requests, gRPC and so MLflow and Ray honour.

    For this process and those that it starts; what the user has in the variable stays.
    """
    set_by_user = [os.environ[name] for name in ("no_proxy", "NO_PROXY") if name in os.environ]
    known = [host.strip() for text in set_by_user for host in text.split(",") if host.strip()]
    together = ",".join(dict.fromkeys([*known, *hosts]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = together


def is_healthy(base: str, *, timeout_seconds: float) -> bool:
    """Whether the MLflow server at `base`, which we started ourselves, answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{base}/health", timeout=timeout_seconds):
            return True
    except (urllib.error.URLError, OSError):
        return False


def is_free(host: str, port: int) -> bool:
    """Whether we could listen there."""
    if port > 65535:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def refuse_taken(host: str, port: int) -> None:
    """ValueError, with a port that is free, where we could not listen at this one."""
    if not is_free(host, port):
        other = next((p for p in range(port + 1, port + 100) if is_free(host, p)), None)
        advice = f"; try --port {other}" if other else ""
        raise ValueError(f"port {port} of {host} is taken or not ours to use{advice}")

"""An address where no Ray cluster answers is refused in a line, within seconds."""

import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator import cluster_ray
from orchestrator.cluster_ray import find

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where somebody accepts, and answers what the test says."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(request.param)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_where_nothing_listens_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    told = rf"^no Ray cluster answers at {re.escape(address)} \(RAY_ADDRESS\): Connection refused$"
    with pytest.raises(ValueError, match=told):
        find(address)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("listener", [b""], indirect=True)
def test_what_accepts_and_says_nothing_is_not_waited_for(
    listener: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster_ray, "REACH_SECONDS", 1.0)
    with pytest.raises(ValueError, match=r"\(--ray-address\): (it says nothing|nothing was heard)"):
        find(listener)


@pytest.mark.parametrize("listener", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], indirect=True)
def test_another_server_is_not_taken_for_ray(listener: str):
    with pytest.raises(ValueError, match="what listens there is not Ray's head"):
        find(listener)


@pytest.mark.parametrize("listener", [SETTINGS], indirect=True)
def test_a_server_of_grpc_is_found(listener: str):
    assert find(listener) == listener


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("no-such-host.invalid:6379", "no-such-host.invalid is not known"),
        ("ray://127.0.0.1:10001", "a sweep's driver is no Ray client"),
        ("http://127.0.0.1:8265", "a sweep's driver is no Ray client"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("head:", "is not HOST:PORT"),
        ("head:x", "is not HOST:PORT"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("local", "is not HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address: str, told: str):
    with pytest.raises(ValueError, match=told) as refused:
        find(address)
    assert "\n" not in str(refused.value)


def test_without_a_cluster_auto_finds_none(monkeypatch: pytest.MonkeyPatch):
    """Nor does it find the Ray that another sweep has for itself."""

    class Own:
        def cmdline(self) -> list[str]:
            return ["raylet", "--dir=/tmp/orchestrator-abcd_123/r", "--gcs-address=127.0.0.1:1"]

    monkeypatch.setattr(cluster_ray.services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(cluster_ray.psutil, "process_iter", lambda: [Own()])
    with pytest.raises(ValueError, match="no Ray cluster runs on this machine"):
        find("auto")

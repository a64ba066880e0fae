"""An address where no Ray cluster answers is refused in a line, within seconds."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ray._raylet import AuthenticationTokenLoader

from orchestrator.cluster import joined_ray, own_ray, ray_watch
from orchestrator.cluster.joined_ray import connect, find, held_back

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where somebody accepts, and answers what the test says."""
    host, answer = request.param if isinstance(request.param, tuple) else (None, request.param)
    family = socket.AF_INET6 if host else socket.AF_INET
    with socket.create_server((host or "127.0.0.1", 0), family=family) as server:
        held = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(answer)

        threading.Thread(target=accept, daemon=True).start()
        yield f"{f'[{host}]' if host else '127.0.0.1'}:{server.getsockname()[1]}"
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
    monkeypatch.setattr(joined_ray, "REACH_SECONDS", 1.0)
    with pytest.raises(ValueError, match=r"\(--ray-address\): (it says nothing|nothing was heard)"):
        find(listener)


@pytest.mark.parametrize("listener", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], indirect=True)
def test_another_server_is_not_taken_for_ray(listener: str):
    with pytest.raises(ValueError, match="what listens there is not Ray's head"):
        find(listener)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = pytest.param(("::1", SETTINGS), marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))


@pytest.mark.parametrize("listener", [SETTINGS, IPV6], indirect=True)
def test_a_server_of_grpc_is_found_and_stays_so(listener: str, tmp_path_factory):
    assert find(listener) == listener
    raylet = str(tmp_path_factory.mktemp("r") / "s")
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(raylet)
        local.listen()
        node = SimpleNamespace(gcs_address=listener, raylet_socket_name=raylet)
        assert ray_watch._what_does_not_answer(node) is None


@pytest.mark.parametrize("word", ["1", "true", "True"])
@pytest.mark.parametrize("listener", [b""], indirect=True)
def test_a_cluster_with_tls_is_only_connected_to(
    listener: str, word: str, monkeypatch: pytest.MonkeyPatch
):
    """As Ray takes the word; what it speaks first is not ours to know."""
    monkeypatch.setattr(joined_ray, "REACH_SECONDS", 1.0)
    monkeypatch.setenv("RAY_USE_TLS", word)
    assert find(listener) == listener


def test_what_ray_says_is_held_and_its_last_word_shown():
    ends = """
import os, sys
from orchestrator.cluster.joined_ray import held_back
said = bytearray()
with held_back(said):
    os.write(2, b"held\\n")
os.write(2, b"so far: " + said)
with held_back(bytearray()):
    os.write(2, b"why it\\nends\\n")
    os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", ends], capture_output=True, text=True)
    assert ended.returncode < 0
    assert ended.stderr == "so far: held\nwhy it\nends\n"


@pytest.mark.parametrize("listener", [SETTINGS], indirect=True)
def test_who_stops_waiting_for_ray_hears_what_it_said(
    listener: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def init(**_: object) -> None:
        os.write(2, b"still trying\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(joined_ray.ray, "init", init)
    with pytest.raises(KeyboardInterrupt):
        connect(listener)
    assert capfd.readouterr().err == "still trying\n"


def test_a_stderr_that_takes_nothing_does_not_end_the_command():
    with held_back(bytearray()):
        os.close(2)
        joined_ray._show(b"Ray's")


@pytest.mark.parametrize("before", [None, "", " ", "t" * 64])
def test_our_own_ray_takes_no_token_from_a_file(
    before: str | None, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    shared = tmp_path / "token"
    shared.write_text("s" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared))
    monkeypatch.setenv("RAY_AUTH_TOKEN", before or "")
    if before is None:
        monkeypatch.delenv("RAY_AUTH_TOKEN")
    own_ray.take_token()
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    taken = loader.get_raw_token(ignore_auth_mode=True)
    loader.reset_cache()
    assert taken == os.environ["RAY_AUTH_TOKEN"]
    assert (taken == before) == (before == "t" * 64)


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
        ("::1:6379", "is not HOST:PORT"),
        ("[::1]", "is not HOST:PORT"),
        (":6379", "is not HOST:PORT"),
        ("head:6379²", "is not HOST:PORT"),
        (f"{'x' * 70}.example:6379", "no Ray cluster answers"),
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

    monkeypatch.setattr(joined_ray, "address_of_started", lambda: None)
    monkeypatch.setattr(joined_ray.psutil, "process_iter", lambda: [Own()])
    with pytest.raises(ValueError, match="no Ray cluster runs on this machine"):
        find("auto")

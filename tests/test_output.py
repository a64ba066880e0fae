"""A print that fails ends nothing, and servers of this machine are asked round any proxy."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.support.loopback import ask_directly, is_healthy

PRINTS_ON = """
import sys
from rich.console import Console
from orchestrator.cli.output import make_output_steady, what_was_lost
make_output_steady()
console = Console()
for number in range(20_000):
    console.print(f"trial #{number} · 95.5 ± 1.5", highlight=False)
    print("a line", file=sys.stderr)
open(sys.argv[1], "w").write("came to its end")
print(what_was_lost(), file=sys.stderr)
"""


def run(tmp_path: Path, shell: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """`shell` is a command line in which $RUN prints 20,000 lines and then writes a file."""
    script = tmp_path / "prints_on.py"
    script.write_text(PRINTS_ON)
    command = f"{sys.executable} {script} {tmp_path / 'end'}"
    root = str(Path(__file__).parent.parent)
    return subprocess.run(
        ["bash", "-c", shell.replace("$RUN", command)],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        "set -o pipefail; $RUN | head -1",
        "set -o pipefail; $RUN 2>&1 | head -1",
        "$RUN >&-",
        "$RUN >&- 2>&-",
        "$RUN > /dev/full",
        "$RUN 2> /dev/full",
    ],
)
def test_a_reader_that_leaves_or_a_full_disk_ends_nothing(shell, tmp_path):
    done = run(tmp_path, shell)
    assert (tmp_path / "end").read_text() == "came to its end"
    assert done.returncode == 0
    lost = b"the output is not complete: No space left on device" in done.stderr
    assert lost == (shell == "$RUN > /dev/full")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_what_a_terminal_cannot_encode_is_escaped(tmp_path):
    done = run(tmp_path, "$RUN", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert (tmp_path / "end").read_text() == "came to its end"
    assert b"95.5 \\xb1 1.5" in done.stdout


@pytest.fixture
def server() -> Iterator[str]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_our_own_servers_are_asked_round_a_proxy(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "intranet.example")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    assert is_healthy(server, timeout_seconds=5)
    ask_directly()
    assert os.environ["NO_PROXY"].split(",") == [
        "intranet.example",
        *("127.0.0.1", "localhost", "::1"),
    ]
    import requests  # MLflow's client asks with it

    assert requests.get(f"{server}/health", timeout=5).status_code == 200

"""`orchestrator ui` serves the pages of one sweep, and says what is wrong before it does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from plans import make_plan
from shown_runs import (
    ENDINGS,
    free_port,
    no_files,
    runs_of,
)

from orchestrator.cli.ui import ui
from orchestrator.plan.plan import save_plan
from orchestrator.tracking.reconcile import reconcile


@pytest.mark.mlflow
def test_ui_serves_the_sweep_on_this_machine_and_stops_whole(
    swept, uri, tmp_path, monkeypatch, capsys
):
    import psutil

    plan, record = swept
    save_plan(plan, tmp_path)
    reconcile(plan, record, uri, best_files=no_files)
    port = free_port()
    shell = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "ui", str(tmp_path), "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
    )
    try:
        assert shell.stdout is not None
        lines = [shell.stdout.readline(), shell.stdout.readline()]
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in lines[1], lines
        assert len(runs_of(f"http://127.0.0.1:{port}")) == 2 * (1 + len(ENDINGS))
        elsewhere, absent = tmp_path / "elsewhere", tmp_path / "absent"
        elsewhere.mkdir()
        absent.mkdir()
        save_plan(plan, elsewhere)
        save_plan(replace(plan, created="2027-01-01T00:00:00+00:00"), absent)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        ui([elsewhere, absent])
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"{absent.resolve()}: is not on the server yet, and is left out"
        assert said[1:] == [line.strip() for line in lines]
        family = psutil.Process(shell.pid).children(recursive=True)
        assert family
        listening = {
            c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
        shell.send_signal(signal.SIGTERM)
        assert shell.wait(30) == 0
        assert not [process for process in family if process.is_running()]
    finally:
        shell.kill()
        shell.wait()


def test_ui_says_what_is_wrong_before_it_starts_anything(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="is not a sweep folder"):
        ui([tmp_path])
    save_plan(make_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"has no mlflow.db yet; `orchestrator resume"):
        ui([tmp_path])
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .* is taken"):
            ui([tmp_path], port=port, host="127.0.0.1")

"""A tracker that is slow, away or broken costs the sweep nothing."""

import contextlib
import http.server
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from plans import curve_to, wait_for
from shown_runs import (
    answers,
    client,
    free_port,
    mlflow_server,
    no_files,
    replay,
    run_of,
    runs_of,
    shown,
)

from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.mlflow.store import open_client
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import MAX_UNSENT_ROWS, Tracker


class _Faulty(http.server.BaseHTTPRequestHandler):
    """A server that is up and of no use."""

    seconds = 0.0

    def do_POST(self) -> None:
        time.sleep(self.seconds)
        with contextlib.suppress(OSError):
            self.send_error(500, "out of order")

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Silent."""


class _Hanging(_Faulty):
    seconds = 10.0


@contextlib.contextmanager
def faulty_server(kind: str) -> Iterator[str]:
    if kind == "nobody listens":
        yield f"http://someone:hunter2@127.0.0.1:{free_port()}"
        return
    handler = _Hanging if kind == "takes 10 seconds" else _Faulty
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://someone:hunter2@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["nobody listens", "answers 500", "takes 10 seconds"])
def test_a_useless_server_costs_the_caller_nothing(swept, caplog, kind):
    plan, record = swept
    trials = record.all_trials()
    open_client("sqlite://")  # importing MLflow is not what is measured here
    with faulty_server(kind) as address, caplog.at_level(logging.INFO):
        tracker = Tracker(plan, address)
        began = time.perf_counter()
        for _ in range(20):
            replay(tracker, trials)
            time.sleep(0.05)  # its thread meets the fault meanwhile
        assert time.perf_counter() - began < 20 * 0.05 + 1
        began = time.perf_counter()
        assert not tracker.close(timeout_seconds=2)
        assert time.perf_counter() - began < 3
    warnings = [r for r in caplog.records if r.name == "orchestrator.tracking.tracker"]
    assert len(warnings) == (0 if kind == "takes 10 seconds" else 1)
    assert "hunter2" not in caplog.text


def test_memory_is_bounded_while_mlflow_is_away(swept):
    plan, record = swept
    trial = record.trial("caltech101.vpt_deep", 0)
    tracker = Tracker(plan, f"http://127.0.0.1:{free_port()}")
    running = replace(trial, number=10**6, state="running", finished=None)
    tracker.trial_started(running)
    curve = curve_to(0.5, 1000)
    for number in range(100):
        tracker.trial_ended(replace(trial, number=number, curve=curve))
    kept = list(tracker._unsent.values())
    assert sum(len(entry.curve) for entry in kept) <= MAX_UNSENT_ROWS
    assert kept[-1].trial.number == 99, "the newest are kept"
    assert kept[0].trial.number == 10**6, "and those that run"
    tracker.close(5)


def test_reconcile_says_that_mlflow_is_away_without_the_password(swept):
    plan, record = swept
    address = f"http://someone:hunter2@127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match="cannot be written to") as caught:
        reconcile(plan, record, address, best_files=no_files)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would show the address in full"


@pytest.mark.mlflow
def test_a_server_killed_in_the_middle_ends_up_complete(swept, uri, rebuilt, tmp_path, caplog):
    plan, record = swept
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    trials = record.all_trials()
    half = len(trials) // 2
    file = tmp_path / "eurosat.yaml"
    file.write_text("best")
    with caplog.at_level(logging.INFO, logger="orchestrator.tracking.tracker"):
        with mlflow_server(uri, tmp_path, port) as kill:
            # It takes seconds to start: the tracker is there first and must bear it.
            tracker = Tracker(plan, address)
            replay(tracker, trials[:half])
            wait_for(lambda: answers(address))
            wait_for(lambda: len(runs_of(uri)) == len(plan.studies) + half)
            kill()
            replay(tracker, trials[half:])
            wait_for(lambda: "cannot be written to" in caplog.text)
        with mlflow_server(uri, tmp_path, port):
            wait_for(lambda: answers(address))
            assert tracker.close(60)
            reconcile(plan, record, address, best_files=lambda study: [file])
            best = client(address).list_artifacts(
                run_of(address, "eurosat.vpt_deep").info.run_id, "best"
            )
            assert [entry.path for entry in best] == ["best/eurosat.yaml"]
            found, expected = shown(address), shown(rebuilt)
    for study in plan.studies:
        del found[study.name, ""]["tags"]["orchestrator.best_files"]
    assert found == expected

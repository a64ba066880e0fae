"""A tracker is a folder and a line: thread, reconciliation and doctor work with one they never met.

`lines_tracker.py` is that one; it is in the list of trackers while these tests run.
"""

from pathlib import Path

import pytest
from lines_tracker import LINES, Entry, Lines
from plans import make_plan, make_record, run_trial, wait_for
from shown_runs import ENDINGS, no_files, replay

from orchestrator.cli.ui import ui
from orchestrator.cluster.reach import reach
from orchestrator.plan.plan import save_plan
from orchestrator.run.doctor import examine
from orchestrator.tracking.backend import RunKey, TrackingError
from orchestrator.tracking.reconcile import (
    reconcile,
    register_winners,
    restore_models,
    tracked_runs,
)
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.trackers import TRACKERS, chosen_tracker, tracker_at


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """The line in the list of trackers."""
    monkeypatch.setitem(TRACKERS, "lines", LINES)


@pytest.fixture
def address(tmp_path) -> str:
    return f"lines:{tmp_path / 'runs.jsonl'}"


def shown(address: str) -> dict[RunKey, Entry]:
    return Lines(Path(address.removeprefix("lines:"))).read()


def test_what_is_told_live_is_what_is_rebuilt(swept, address, tmp_path):
    plan, record = swept
    tracker = Tracker(plan, address)
    replay(tracker, record.all_trials())
    assert tracker.close(60)
    done = reconcile(plan, record, address, best_files=no_files)
    assert (done.created, done.updated, done.unchanged) == (0, 0, 2 * len(ENDINGS))
    live = shown(address)
    assert len(live) == len(plan.studies) * (1 + len(ENDINGS))
    assert live["eurosat.vpt_deep", ""]["files"].keys() == {"space_file", "page"}
    rebuilt = f"lines:{tmp_path / 'again.jsonl'}"
    reconcile(plan, record, rebuilt, best_files=no_files)
    assert shown(rebuilt) == live


def test_while_it_is_away_the_caller_does_not_wait_and_it_is_told_later(swept, tmp_path, caplog):
    plan, record = swept
    address = f"lines:{tmp_path / 'mounted' / 'runs.jsonl'}"
    tracker = Tracker(plan, address)
    replay(tracker, record.all_trials())
    wait_for(lambda: "Lines at lines:" in caplog.text)
    with pytest.raises(TrackingError, match=r"Lines at .* cannot be written to: FileNotFound"):
        reconcile(plan, record, address, best_files=no_files)
    with pytest.raises(TrackingError, match=r"Lines at .* cannot be read"):
        tracked_runs(plan, address)
    (tmp_path / "mounted").mkdir()
    assert tracker.close(60)
    assert reconcile(plan, record, address, best_files=no_files).unchanged == 2 * len(ENDINGS)


def test_doctor_compares_it_with_the_storage(tmp_path, address):
    plan = make_plan(num_trials=2)
    record = make_record(plan, tmp_path)
    reconcile(plan, record, address, best_files=no_files)
    run_trial(record, "caltech101.vpt_deep")

    def found() -> list[str]:
        examination = examine(plan, record, tmp_path, address)
        assert examination.checked["lines"] >= 2
        return [finding.text for finding in examination.findings if finding.about == "lines"]

    (text,) = found()
    assert text.startswith("Lines shows caltech101.vpt_deep #0 as [], the storage ('complete', ")
    reconcile(plan, record, address, best_files=no_files)
    assert found() == []


def test_models_are_registered_once_and_made_again_where_they_are_gone(swept, address, tmp_path):
    plan, record = swept
    reconcile(plan, record, address, best_files=no_files)
    bundle, key = tmp_path / "eurosat.yaml", ("eurosat.vpt_deep", "")
    bundle.write_text("a bundle")
    bundle.with_suffix(".safetensors").write_bytes(b"its weights")
    with pytest.raises(
        TrackingError, match=r"not registered as models: caltech101.vpt_deep \(File"
    ):
        register_winners(plan, address, {key[0]: bundle, "caltech101.vpt_deep": tmp_path / "gone"})
    (digest,) = shown(address)[key]["models"]
    lines = Lines(Path(address.removeprefix("lines:")))
    lines.connect()
    lines._write(key, models={digest: ""})
    (run,) = [run for run in tracked_runs(plan, address) if run.missing]
    assert run.missing[0].bundle == digest
    assert restore_models(plan, address, [bundle]) == 1
    assert shown(address)[key]["models"] == {digest: "a bundle"}


def test_the_environment_chooses_and_an_address_of_no_tracker_is_refused(monkeypatch, address):
    for kind in TRACKERS.values():
        monkeypatch.delenv(kind.variable, raising=False)
    assert chosen_tracker().name == "MLflow"
    monkeypatch.setenv("LINES_TRACKER", address)
    assert chosen_tracker() is tracker_at(address) is LINES
    with pytest.raises(ValueError, match=r"gopher://\*\*\*@host: is the address of no tracker"):
        tracker_at("gopher://me:hunter2@host")


def test_commands_ask_the_chosen_tracker(monkeypatch, address, tmp_path):
    monkeypatch.setenv("LINES_TRACKER", address)
    save_plan(make_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"Lines has no pages"):
        ui([tmp_path])
    _, tracker, _ = reach(None, address, None)
    assert (tracker.part, tracker.reached, tracker.text) == ("Lines", True, f"{address} is a file")

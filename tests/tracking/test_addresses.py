"""Where a sweep is tracked, and that no message tells a password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.support.addresses import redacted
from orchestrator.tracking.trackers import tracking_uri

QUIET = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.WARNING)
sys.path.insert(0, sys.argv[1])
from plans import make_plan, make_record, run_trial
from orchestrator.tracking.trackers import tracking_uri
from orchestrator.tracking.reconcile import reconcile
from orchestrator.tracking.tracker import Tracker
assert "mlflow" not in sys.modules, "importing it takes seconds: the thread does that"
folder = Path(sys.argv[2])
plan = make_plan(num_trials=1)
record = make_record(plan, folder)
tracker = Tracker(plan, tracking_uri(folder))
tracker.trial_ended(run_trial(record, "caltech101.vpt_deep"))
assert tracker.close(120)
reconcile(plan, record, tracking_uri(folder), best_files=lambda study: [])
import os
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
"""


@given(
    user=st.text("abcXYZ019-_%", min_size=1),
    password=st.text("abcXYZ019-_%@:!$", min_size=8),
    scheme=st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]),
)
def test_no_password_survives_in_a_message(user, password, scheme):
    address = f"{scheme}://{user}:{password}@db.example.org:5432/mlflow"
    message = redacted(f"request to {address} failed ({address}/api)")
    assert password not in message
    assert "db.example.org:5432/mlflow" in message


def test_tokens_in_the_query_of_an_address_are_hidden_too():
    hidden = redacted("postgresql://db/mlflow?user=me&password=hunter2&sslmode=require")
    assert hidden == "postgresql://db/mlflow?user=me&password=***&sslmode=require"


def test_the_tracking_uri_is_the_users_or_the_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example.org")
    assert tracking_uri(tmp_path) == "http://tracking.example.org"


@pytest.mark.parametrize("value", ["./mlruns", "file:///tmp/mlruns", "ftp://me:hunter2@host"])
def test_a_tracking_uri_of_no_use_is_refused_at_once(tmp_path, monkeypatch, value):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI=.*expected") as caught:
        tracking_uri(tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_a_fresh_store_is_made_without_a_word(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(Path(__file__).parents[1]), str(tmp_path)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")},
        timeout=300,
    )
    noise = [line for line in done.stderr.splitlines() if "optuna" not in line.lower()]
    assert (done.returncode, done.stdout, noise) == (0, "", [])

"""Without the parts of MLflow that it does not promise, a sweep is tracked all the same."""

import logging

import mlflow
import pytest
from plans import make_plan, make_record, run_trial
from shown_runs import no_files, run_of

from orchestrator.tracking.mlflow import private
from orchestrator.tracking.reconcile import reconcile


@pytest.mark.slow
def test_another_mlflow_without_its_inner_parts_is_used_with_one_warning(
    tmp_path, monkeypatch, caplog
):
    for table in ("_MAKE_TABLES", "_KNOWN_PLACES"):
        monkeypatch.setattr(private, table, {"mlflow.store._gone_since.name": ""})
    private._warn_of_another.cache_clear()
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.vpt_deep")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        reconcile(plan, record, uri, best_files=no_files)
        assert run_of(uri, "caltech101.vpt_deep", 0).info.status == "FINISHED"
    told = f"tested with MLflow 3.17; found {mlflow.__version__}: "
    # A tracker of an earlier test may still say that its server is gone.
    ours = [r.getMessage() for r in caplog.records if r.name == private.__name__]
    assert [message.startswith(told) for message in ours] == [True]
    private._warn_of_another.cache_clear()

"""What we take from MLflow without its promise is there in the tested version, or done without."""

import logging
from importlib import import_module
from pathlib import Path

from plans import make_plan, make_record, run_trial
from shown_runs import no_files, run_of

from orchestrator.tracking.mlflow import private
from orchestrator.tracking.reconcile import reconcile


def test_the_installed_mlflow_has_what_we_rely_on_and_is_the_one_that_is_asked_for():
    for relied_on in private.RELIES_ON:
        module, _, name = relied_on.name.rpartition(".")
        assert hasattr(import_module(module), name), relied_on
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert f'"mlflow>={private.TESTED},<' in pyproject.read_text()


def test_another_mlflow_without_its_inner_parts_is_used_with_one_warning(
    tmp_path, monkeypatch, caplog
):
    gone = [one._replace(name=f"{one.name}_of_old") for one in private.RELIES_ON]
    monkeypatch.setattr(private, "RELIES_ON", (gone[0], gone[1]._replace(name="mlflow.gone.name")))
    monkeypatch.setattr(private, "TESTED", "3.16")
    private.warn_if_untested.cache_clear()
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.vpt_deep")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        reconcile(plan, record, uri, best_files=no_files)
        assert run_of(uri, "caltech101.vpt_deep", 0).info.status == "FINISHED"
    warnings = [r.getMessage() for r in caplog.records if "tested is 3.16.x" in r.getMessage()]
    assert len(warnings) == 1
    private.warn_if_untested.cache_clear()

"""The results table: one typed row per trial, never half written, at home in pandas."""

import json
import math
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plans import curve_to, facts_of, make_plan, make_record, run_trial

from orchestrator.plan.plan import SweepPlan
from orchestrator.record.record import Record
from orchestrator.report.results import (
    RESULTS_SCHEMA,
    read_results,
    results_table,
    write_results,
)
from orchestrator.report.summary import summary_table

ADDED = ("val_majority_share", "val_images_by_class", "val_correct_by_class")
"""Columns that older tables lack."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[SweepPlan, Record]:
    """A linear and a VPT study with trials in every state. Only read."""
    plan = make_plan(spaces=("linear", "vpt_deep"), num_trials=6)
    record = make_record(plan, tmp_path_factory.mktemp("swept"))
    for ending in ("complete", "complete", "pruned", "failed", "running"):
        for study in plan.studies:
            run_trial(record, study.name, ending=ending, accuracy=0.8)
    return plan, record


@pytest.fixture
def path(swept, tmp_path) -> Path:
    path = tmp_path / "results.parquet"
    write_results(*swept, path)
    return path


def test_every_trial_is_a_row_with_its_state(swept, path):
    plan, record = swept
    rows = read_results(path).to_pylist()
    assert [(r["study"], r["number"], r["state"]) for r in rows] == [
        (t.study, t.number, t.state) for t in record.all_trials()
    ]
    assert len(rows) == 5 * len(plan.studies)


def test_a_row_says_what_the_record_says(swept, path):
    plan, record = swept
    trial = record.trial("caltech101.vpt_deep", 0)
    (row,) = [
        r
        for r in read_results(path).to_pylist()
        if (r["study"], r["number"]) == (trial.study, trial.number)
    ]
    assert row["sweep"] == plan.name
    assert (row["task"], row["group"], row["space"]) == ("caltech101", "natural", "vpt_deep")
    assert row["method"] == "vpt"
    assert row["val_accuracy"] == trial.val_accuracy
    assert (row["num_val"], row["epochs_run"], row["seed"]) == (200, 4, trial.seed)
    assert row["curve"] == [dict(epoch) for epoch in trial.curve]
    assert json.loads(row["config"]) == dict(trial.config)
    for name, value in trial.config.items():
        assert row[f"param.{name}"] == value
    facts = {name: value for name, value in trial.facts.items() if name != "host"}
    shown = {name: row[name] for name in facts}
    assert shown == facts, "every fact a worker tells has its column, but for the machine's name"


def test_times_are_utc(swept, path):
    _, record = swept
    started = read_results(path)["started"][0].as_py()
    assert started == record.all_trials()[0].started.astimezone(UTC)
    assert abs((datetime.now(UTC) - started).total_seconds()) < 3600


def test_what_a_trial_does_not_have_is_null(path):
    rows = {(r["study"], r["number"]): r for r in read_results(path).to_pylist()}
    assert rows["caltech101.linear", 0]["param.num_tokens"] is None
    assert rows["caltech101.linear", 0]["failure"] is None
    running = rows["caltech101.linear", 4]
    assert running["finished"] is None and running["wall_seconds"] is None
    assert rows["caltech101.linear", 3]["failure"].startswith("loss is nan at epoch 2")


def test_columns_are_typed_whatever_was_drawn(path):
    kinds = {field.name: field.type for field in read_results(path).schema}
    assert kinds["param.lr"] == pa.float64()
    assert kinds["param.num_tokens"] == pa.int64()
    assert kinds["param.deep"] == pa.bool_()
    assert kinds["param.optimizer"] == pa.string()


def test_every_column_is_described(path):
    for field in read_results(path).schema:
        assert field.metadata and field.metadata[b"description"], field.name
    assert len(set(RESULTS_SCHEMA.names)) == len(RESULTS_SCHEMA.names)


def test_pandas_reads_it_as_one_would_wish(path):
    trials = pd.read_parquet(path)
    complete = trials[trials.state == "complete"]
    assert complete.groupby("space").val_accuracy.max().index.tolist() == ["linear", "vpt_deep"]
    assert trials["param.lr"].dtype == float
    curve = pd.DataFrame(list(complete.curve.iloc[0]))
    assert curve.val_accuracy.iloc[-1] == complete.val_accuracy.iloc[0]


def test_tables_of_different_sweeps_concatenate(swept, tmp_path):
    plan = make_plan(name="other", spaces=("linear",), num_trials=1)
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.linear")
    tables = [results_table(plan, record.all_trials()), results_table(*_trials(swept))]
    both = pa.concat_tables(tables, promote_options="default")
    assert both.num_rows == 11
    assert set(both["sweep"].to_pylist()) == {"other", "test-sweep"}


def _trials(swept):
    plan, record = swept
    return plan, record.all_trials()


def test_a_sweep_without_trials_is_an_empty_table(tmp_path):
    plan = make_plan()
    write_results(plan, make_record(plan, tmp_path), tmp_path / "results.parquet")
    table = read_results(tmp_path / "results.parquet")
    assert table.num_rows == 0
    assert "param.lr" in table.schema.names


def test_a_reader_never_finds_a_part_of_a_table(swept, tmp_path):
    path = tmp_path / "results.parquet"
    write_results(*swept, path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_results(*swept, path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert read_results(path).num_rows == 10
    finally:
        stop.set()
        writer.join()
    assert list(tmp_path.iterdir()) == [path], "nothing is left lying about"


def test_an_unknown_metric_is_noticed(tmp_path):
    plan = make_plan(num_trials=1)
    record = make_record(plan, tmp_path)
    number = record.ask("caltech101.vpt_deep").number
    rows = [{**row, "val_f1": 0.5} for row in curve_to(0.5, 4)]
    record.complete("caltech101.vpt_deep", number, curve=rows, facts=facts_of(rows))
    with pytest.raises(AssertionError, match="val_f1"):
        results_table(plan, record.all_trials())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such results file"),
        (b"not parquet", "is not a results table"),
        ("foreign", r"is not a results table: it lacks sweep, study"),
    ],
)
def test_what_is_no_results_table_is_refused(tmp_path, content, message):
    path = tmp_path / "results.parquet"
    if content == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_the_summary_counts_and_names_the_best(swept):
    plan, record = swept
    linear, vpt = summary_table(plan, record)
    assert (linear.task, linear.space, vpt.space) == ("caltech101", "linear", "vpt_deep")
    counts = (vpt.planned, vpt.complete, vpt.pruned, vpt.failed, vpt.running)
    assert counts == (6, 2, 1, 1, 1)
    best = record.best("caltech101.vpt_deep")
    assert vpt.best_number == best.number
    assert vpt.best_val_accuracy == best.val_accuracy
    assert vpt.best_standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 200))
    assert vpt.best_text == "80.0 ± 2.8"
    assert vpt.best_config.keys() - {"momentum"} == {"num_tokens", "optimizer", "lr"}
    assert vpt.config_text.startswith(f"num_tokens {best.config['num_tokens']}, optimizer ")
    seconds = [trial.facts.get("wall_seconds", 0.0) for trial in record.trials("caltech101.linear")]
    assert linear.seconds == pytest.approx(sum(seconds)) and linear.seconds > 0
    json.dumps([row.as_json() for row in (linear, vpt)])


def test_a_study_without_a_complete_trial_has_no_best(tmp_path):
    plan = make_plan()
    (row,) = summary_table(plan, make_record(plan, tmp_path))
    assert (row.best_number, row.best_val_accuracy, row.best_text, row.config_text) == (
        None,
        None,
        "",
        "",
    )
    assert row.planned == 4


def test_accuracies_stand_beside_the_share_of_the_most_frequent_class(tmp_path):
    plan = make_plan(num_trials=1)
    plan = replace(plan, tasks=(replace(plan.tasks[0], val_majority=150),))
    record = make_record(plan, tmp_path)
    run_trial(record, "caltech101.vpt_deep", accuracy=1.0)
    (summary,) = summary_table(plan, record)
    assert (summary.best_text, summary.majority_text) == ("100.0 (≥ 98.1)", "75.0")
    assert summary.as_json()["best_interval"][0] == pytest.approx(0.98115, abs=1e-5)
    (row,) = results_table(plan, record.all_trials()).to_pylist()
    assert row["val_majority_share"] == 0.75


def test_a_table_of_an_older_version_is_read_with_todays_names(swept, tmp_path):
    plan, record = swept
    now = results_table(plan, record.all_trials())
    older = []
    for row in now.to_pylist():
        row["curve"] = [{**epoch, "lr": epoch.pop("scaled_lr")} for epoch in row["curve"]]
        older.append({name: row[name] for name in row if name not in ADDED})
    fields = [field for field in now.schema if field.name not in (*ADDED, "curve")]
    kinds = now.schema.field("curve").type.value_type
    epoch = pa.struct([f.with_name("lr") if f.name == "scaled_lr" else f for f in kinds])
    fields.insert(
        now.schema.get_field_index("curve") - len(ADDED), pa.field("curve", pa.list_(epoch))
    )
    pq.write_table(pa.Table.from_pylist(older, schema=pa.schema(fields)), tmp_path / "old.parquet")
    assert read_results(tmp_path / "old.parquet").equals(now)

"""The storage of a sweep that came from a stranger: read as what it is, or one line."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from command_line import without_waiting
from plans import curve_to, facts_of, make_plan, make_record

from orchestrator.cli import main
from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import save_plan
from orchestrator.record.database import default_storage
from orchestrator.record.finals import FinalRecord


@pytest.fixture(scope="module")
def good_sweep(tmp_path_factory) -> Path:
    """A sweep folder with two complete trials."""
    plan = make_plan(num_trials=3)
    folder = tmp_path_factory.mktemp("sweeps") / plan.name
    folder.mkdir()
    save_plan(plan, folder)
    record = make_record(plan, folder)
    study = plan.studies[0].name
    for accuracy in (0.5, 0.25):
        config = record.ask(study)
        rows = curve_to(accuracy, 4)
        record.report(study, config.number, rows, finished=True)
        record.complete(study, config.number, curve=rows, facts=facts_of(rows))
    return folder


@pytest.fixture
def sweep(good_sweep, tmp_path) -> Path:
    return shutil.copytree(good_sweep, tmp_path / good_sweep.name)


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["orchestrator", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out, without_waiting(said.err)


def one_line(code: int, said: str) -> None:
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert len(said) < 1500


def curve(**changed: object) -> str:
    columns = {"epoch": [1, 2], "val_accuracy": [0.1, 0.2], "train_loss": [1.0, 0.5]}
    return json.dumps({**columns, **changed})


def _of(key: str, value: object) -> tuple[str, object]:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"UPDATE trial_user_attributes SET value_json = ? WHERE key = '{key}'", text


PARAM = "UPDATE trial_params SET {} = ? WHERE param_name = 'lr'"
CHANGES = {
    "no JSON": _of("curve", "{"),
    "deep JSON": _of("facts", "[" * 100_000),
    "a curve of no columns": _of("curve", [1, 2]),
    "columns of two lengths": _of("curve", curve(epoch=[1, 2, 3])),
    "texts in a curve": _of("curve", curve(train_loss=["a", "b"])),
    "a text as column": _of("curve", curve(train_loss="ab")),
    "epochs that fall": _of("curve", curve(epoch=[2, 1])),
    "epochs that are none": _of("curve", curve(epoch=[True, None])),
    "no epochs": _of("curve", {"val_accuracy": [0.5]}),
    "facts of no names": _of("facts", ["cpu"]),
    "a device of no name": _of("facts", {"device": ["cpu"]}),
    "threads of no number": _of("facts", {"cpu_threads": "all"}),
    "parameters below nothing": _of("facts", {"num_tuned_parameters": -1}),
    "images that count for nothing": _of("facts", {"val_effective_images": 0}),
    "a baseline of no share": _of("facts", {"test_baseline": 1.5}),
    "parameters in part": _of("facts", {"num_tuned_parameters": 1.5}),
    "seconds without end": _of("facts", '{"wall_seconds": Infinity}'),
    "seconds of no number": _of("facts", '{"wall_seconds": NaN}'),
    "a value of a text": ("UPDATE trial_values SET value = ?", "high"),
    "a value of bytes": ("UPDATE trial_values SET value = ?", b"\x00\xff"),
    "a value above one": ("UPDATE trial_values SET value = ?", 7.5),
    "an infinite value": ("UPDATE trial_values SET value_type = ?", "INF_POS"),
    "a value of no kind": ("UPDATE trial_values SET value_type = ?", "SOME"),
    "a report of a text": (
        "UPDATE trial_intermediate_values SET intermediate_value = ?",
        "../../etc",
    ),
    "an unknown state": ("UPDATE trials SET state = ?", "EXPLODED"),
    "a start that is no time": ("UPDATE trials SET datetime_start = ?", "long ago"),
    "no end": ("UPDATE trials SET datetime_complete = ?", None),
    "a number of a text": ("UPDATE trials SET number = ?", "zero"),
    "a distribution of no JSON": (PARAM.format("distribution_json"), "lr"),
    "an unknown distribution": (
        PARAM.format("distribution_json"),
        '{"name": "os.system", "attributes": {}}',
    ),
    "a distribution without bounds": (
        PARAM.format("distribution_json"),
        '{"name": "FloatDistribution", "attributes": {}}',
    ),
    "a value out of the space": (PARAM.format("param_value"), 1e9),
    "a value that is none": (PARAM.format("param_value"), "a"),
    "a name out of the space": (PARAM.format("param_name"), "../../up"),
    "a choice that is none": (
        "UPDATE trial_params SET param_value = ? WHERE param_name = 'optimizer'",
        17,
    ),
    "another plan": ("UPDATE study_user_attributes SET value_json = ? WHERE key = 'plan'", "7"),
    "a plan of no JSON": (
        "UPDATE study_user_attributes SET value_json = ? WHERE key = 'plan'",
        "{",
    ),
    "a direction of no kind": ("UPDATE study_directions SET direction = ?", "SIDEWAYS"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_storage_is_one_line(kind, sweep, monkeypatch, capsys):
    statement, value = CHANGES[kind]
    with sqlite3.connect(sweep / "studies.db") as database:
        assert database.execute(statement, (value,)).rowcount > 0, "it changes nothing"
    database.close()
    code, _, said = run(monkeypatch, capsys, "status", sweep)
    one_line(code, said)


def test_what_was_not_changed_is_read(sweep, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "status", sweep)
    assert code == 0
    assert "50.0" in out


def final(**changed: object) -> str:
    entry = {"task": "caltech101", "space": "vpt_deep", "test_accuracies": {"42": 0.5}}
    return json.dumps([{**entry, **changed}])


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[" * 100_000, "7", "null", '"a"', '{"a": 1}', "[7]", "[{}]", "[null]"),
        final(test_accuracies={"a": 0.5}),
        final(test_accuracies={"1": 7}),
        final(test_accuracies={"1": True}),
        final(test_accuracies={"1": float("nan")}),
        final(test_accuracies=[0.5]),
        final(winner=99),
        final(winner="a"),
        final(winner=-1),
        final(why=[1]),
        final(cross_validation="a"),
        final(cross_validation=7),
        final(space="../../up"),
        final(task=7),
    ],
)
def test_final_results_of_a_stranger_are_one_line(text, sweep, monkeypatch, capsys):
    (sweep / "final.json").write_text(text)
    code, _, said = run(monkeypatch, capsys, "report", sweep)
    one_line(code, said)
    assert "final" in said


# The last stage


@pytest.fixture(scope="module")
def good_final(good_sweep, tmp_path_factory) -> Path:
    """The sweep with a last stage: two finalists, a winner, one final run."""
    folder = shutil.copytree(good_sweep, tmp_path_factory.mktemp("finals") / good_sweep.name)
    plan = make_plan(num_trials=3)
    study = plan.studies[0].name
    record = make_record(plan, folder)
    finals = FinalRecord(plan, record, default_storage(folder))
    finals.begin(study, FinalProtocol(num_finalists=2, num_folds=2, seeds=(1, 2)), "f")
    rows = curve_to(0.5, 4)
    for finalist in finals.finalists(study):
        for fold in range(2):
            finals.fold_done(study, finalist.number, fold, curve=rows, facts=facts_of(rows))
    winner = finals.winner(study)
    assert winner is not None
    finals.final_begun(study, 1, record.trial(study, winner.number).config)
    facts = {**facts_of(rows), "test_accuracy": 0.5}
    finals.final_done(study, 1, curve=rows, facts=facts)
    return folder


def _of_study(key: str, value: object) -> tuple[str, object]:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"UPDATE study_user_attributes SET value_json = ? WHERE key = '{key}'", text


PROTOCOL = {"num_finalists": 2, "num_folds": 2, "seeds": [1, 2], "data_fingerprint": "f"}
FINAL_CHANGES = {
    "no protocol": _of_study("protocol", 7),
    "a protocol of no JSON": _of_study("protocol", "{"),
    "an empty protocol": _of_study("protocol", {}),
    "a protocol with more": _of_study("protocol", {**PROTOCOL, "num_folders": 2}),
    "folds of a text": _of_study("protocol", {**PROTOCOL, "num_folds": "2"}),
    "folds without end": _of_study("protocol", {**PROTOCOL, "num_folds": 10**9}),
    "other seeds": _of_study("protocol", {**PROTOCOL, "seeds": [7]}),
    "a seed of no number": _of_study("protocol", {**PROTOCOL, "seeds": [None]}),
    "finalists of no numbers": _of_study("chosen", ["a"]),
    "finalists that are no list": _of_study("chosen", 7),
    "finalists that are not there": _of_study("chosen", [98, 99]),
    "a search of no numbers": _of_study("search", {"finished": "all", "planned": 1}),
    "a winner of no number": _of_study("winner", {"number": "a", "why": ""}),
    "a winner of no finalist": _of_study("winner", {"number": 99, "why": ""}),
    "a winner for no reason": _of_study("winner", {"number": 0, "why": [1]}),
    "a winner that is a list": _of_study("winner", [0]),
    "a finalist of no trial": _of("trial", ["a"]),
    "a seed that is a list": _of("seed", [1]),
    "a seed of no protocol": _of("seed", 7),
    "a fold of no facts": _of("fold 1", {"curve": {}}),
    "a fold of nothing": _of("fold 1", 7),
    "a fold of another curve": _of("fold 0", {"curve": [1], "facts": {}}),
    "facts of a final run": _of("facts", {"wall_seconds": "long"}),
    "counts of no numbers": _of("facts", {"test_correct_by_class": ["a"]}),
    "confused pairs of two": _of("facts", {"test_confused": [[0, 1]]}),
}


@pytest.mark.parametrize("kind", FINAL_CHANGES)
def test_a_changed_last_stage_is_one_line(kind, good_final, tmp_path):
    folder = shutil.copytree(good_final, tmp_path / good_final.name)
    statement, value = FINAL_CHANGES[kind]
    with sqlite3.connect(folder / "studies.db") as database:
        assert database.execute(statement, (value,)).rowcount > 0, "it changes nothing"
    database.close()
    plan = make_plan(num_trials=3)
    with pytest.raises(ValueError) as refused:
        FinalRecord(plan, make_record(plan, folder), default_storage(folder))
    assert "\n" not in str(refused.value)


def test_an_unchanged_last_stage_is_read(good_final):
    plan = make_plan(num_trials=3)
    record = make_record(plan, good_final)
    finals = FinalRecord.begun(plan, record, default_storage(good_final))
    assert finals is not None
    assert [run.seed for run in finals.final_runs(plan.studies[0].name)] == [1]

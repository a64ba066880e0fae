"""The Pareto front: what no other trial beats in both, how sure that is, and where it is shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import make_plan, make_record
from synthetic_sweep import synthetic_plan, synthetic_record

from orchestrator import SearchSpace, Sweep
from orchestrator.api.report import Report
from orchestrator.bundle.fronts import front_texts
from orchestrator.plan.costs import COSTS, Also
from orchestrator.record.front import Front, Point, front_of
from orchestrator.record.record import TrialRecord
from orchestrator.report.collect import SweepReport, collect
from orchestrator.report.figures import study_figures
from orchestrator.report.formats import document
from orchestrator.report.front_table import front_sentences, front_tables
from orchestrator.report.page import page, study_page
from orchestrator.report.pareto_frame import pareto_rows
from orchestrator.support.uncertainty import standard_error
from orchestrator.support.yaml_io import parse_yaml, read_yaml

TRAINED = Also(minimize="trained_parameters")
COST = COSTS["trained_parameters"]
"""Few values of both, so that many are equal."""
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), max_size=25)


def trial_of(number: int, score: float, cost: float, **other: Any) -> TrialRecord:
    found = TrialRecord(
        study="caltech101.vpt_deep",
        number=number,
        state="complete",
        config={"num_tokens": int(cost)},
        val_accuracy=score,
        curve=[],
        failure=None,
        seed=0,
        started=None,
        finished=None,
        facts={"num_tuned_parameters": int(cost)},
    )
    return replace(found, **other)


def front(pairs: list[tuple[float, float]], error: float = 0.02) -> Front:
    points = [
        Point(trial=trial_of(number, score, cost), score=score, error=error, cost=cost)
        for number, (score, cost) in enumerate(pairs)
    ]
    return Front(cost=COST, points=points)


def numbers(points: Any) -> list[int]:
    return [point.trial.number for point in points]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


@given(PAIRS)
def test_the_front_is_exactly_what_no_other_beats(pairs):
    expected = [
        number
        for number, pair in enumerate(pairs)
        if not any(beats(other, pair) for other in pairs)
    ]
    members = front(pairs).members
    assert sorted(numbers(members)) == expected
    assert [point.cost for point in members] == sorted(point.cost for point in members)


@given(PAIRS, st.integers(0, 3))
def test_near_is_what_one_standard_error_more_would_put_on_the_front(pairs, error):
    found = front(pairs, error + 0.5)
    members = set(numbers(found.members))
    expected = [
        number
        for number, (score, cost) in enumerate(pairs)
        if number not in members
        and not any(beats(other, (score + error + 0.5, cost)) for other in pairs)
    ]
    assert numbers(found.near) == expected


def test_as_good_for_less_is_the_cheapest_within_one_standard_error():
    found = front([(0.80, 1), (0.90, 2), (0.91, 3), (0.92, 4), (0.91, 5)])
    as_good = {point.trial.number: found.as_good(point) for point in found.points}
    told = {number: one and one.trial.number for number, one in as_good.items()}
    assert told == {0: None, 1: None, 2: 1, 3: 1, 4: 1}


def test_trials_that_are_not_complete_or_tell_no_cost_are_on_no_front():
    trials = [
        trial_of(0, 0.5, 9),
        trial_of(1, 0.9, 1, state="pruned"),
        trial_of(2, 0.9, 1, state="failed"),
        trial_of(3, 0.9, 1, facts={}),
    ]
    task = make_plan().tasks[0]
    (point,) = front_of(trials, task, COST).points
    assert point.trial.number == 0
    assert point.error == standard_error(0.5, task.num_val)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Any:
    plan = synthetic_plan(
        tasks=("caltech101", "eurosat"), spaces=("linear", "vpt_deep"), num_trials=24, epochs=20
    )
    plan = replace(plan, also=TRAINED)
    return plan, synthetic_record(plan, tmp_path_factory.mktemp("front"))


@pytest.fixture(scope="module")
def report(swept) -> SweepReport:
    return collect(*swept)


def test_the_table_has_every_point_of_every_front(report):
    (table,) = front_tables(report)
    told = [tuple(cell.text for cell in row.cells) for row in table.rows]
    expected = []
    for study in report.studies:
        assert study.front is not None
        for point in study.front.members:
            as_good = study.front.as_good(point)
            expected.append(
                (
                    study.plan.task,
                    study.plan.space,
                    f"#{point.trial.number}",
                    f"{point.trial.facts['num_tuned_parameters']:,}",
                    f"#{as_good.trial.number}" if as_good else "–",
                )
            )
    assert [(row[0], row[1], row[2], row[4], row[5]) for row in told] == expected
    assert len({row[5] for row in told}) > 1, "the sweep tells too little"


def test_what_stands_out_is_on_the_front_of_the_whole_task(report):
    (table,) = front_tables(report)
    strong = {
        (row.cells[0].text, row.cells[1].text, row.cells[2].text)
        for row in table.rows
        if any(cell.strong for cell in row.cells)
    }
    expected = set()
    for task in report.plan.tasks:
        points = [
            (study.plan.space, point)
            for study in report.of_task(task.name)
            if study.front
            for point in study.front.points
        ]
        for space, point in points:
            if not any(beats((o.score, o.cost), (point.score, point.cost)) for _, o in points):
                expected.add((task.name, space, f"#{point.trial.number}"))
    assert strong == expected
    assert len(strong) < len(table.rows)


def test_a_study_says_which_cheaper_one_is_as_good(report):
    study = next(s for s in report.studies if s.front and s.front.as_good(s.front.members[-1]))
    assert study.front is not None
    top = study.front.members[-1]
    cheaper = study.front.as_good(top)
    assert cheaper is not None
    assert top.score == study.val_accuracy
    told = " ".join(front_sentences(study))
    assert f"Within one standard error of its best, #{top.trial.number}" in told
    assert f"the cheapest is #{cheaper.trial.number}" in told
    assert f"with {cheaper.trial.facts['num_tuned_parameters']:,} trained parameters" in told


def test_a_study_whose_trials_cost_the_same_says_so(report):
    study = next(study for study in report.studies if study.plan.space == "linear")
    (told,) = front_sentences(study)
    assert told.startswith("Pareto front: every complete trial has 8,458 trained parameters")


def test_page_and_page_of_a_study_draw_the_front(report):
    text = page(report)
    assert text.count("<h4>Accuracy against trained parameters</h4>") == len(report.studies)
    assert "Pareto front: val % against trained parameters" in text
    for study in report.studies:
        assert study.front is not None
        figure = study_figures(study)[0]
        if study.plan.space == "linear":
            assert figure.caption == "Not shown, all complete trials cost the same: 8,458."
            continue
        assert figure.svg is not None and "nan" not in figure.svg
        for point in study.front.points:
            assert figure.svg.count(f"#{point.trial.number} ") == 1
        assert figure.svg in study_page(study)


def test_a_study_without_a_complete_trial_has_no_front_yet(tmp_path):
    plan = replace(make_plan(), also=TRAINED)
    (study,) = collect(plan, make_record(plan, tmp_path)).studies
    assert study.front is not None and study.front.members == []
    assert front_sentences(study) == []
    assert front_tables(collect(plan, make_record(plan, tmp_path)))[0].rows == []


def test_programs_get_the_points(report, swept):
    rows = pareto_rows(*swept)
    told = document(report)
    json.dumps(told)
    for study in told["studies"]:
        name = f"{study['task']}.{study['space']}"
        of_study = [row for row in rows if row["study"] == name]
        assert [row["number"] for row in of_study] == [one["trial"] for one in study["front"]]
        for row, one in zip(of_study, study["front"], strict=True):
            assert row["trained_parameters"] == one["trained_parameters"]
            assert row["as_good_for_less"] == one["as_good_for_less"]
            assert row["param.lr"] == one["config"]["lr"]


def test_a_file_has_every_point_and_names_the_bundle_of_the_best_alone(report, swept):
    texts = front_texts(*swept)
    assert set(texts) == {study.name for study in report.studies}
    told = {name: parse_yaml(text, source=name)["points"] for name, text in texts.items()}
    for study in report.studies:
        assert study.front is not None and study.best is not None
        assert [one["trial"] for one in told[study.name]] == numbers(study.front.members)
        for one in told[study.name]:
            is_best = one["trial"] == study.best.number
            path = f"by_method/{study.plan.space}/{study.plan.task}.yaml"
            assert one["bundle"] == (path if is_best else None)
            assert one["config"]["epochs"] == 20
    assert any(one["bundle"] is None for points in told.values() for one in points)


def test_a_sweep_of_one_objective_is_as_before(swept, tmp_path: Path):
    plan = replace(swept[0], also=None)
    found = collect(plan, synthetic_record(plan, tmp_path / "one"))
    assert front_tables(found) == []
    assert "Pareto" not in page(found)
    assert "Pareto" not in Report(found, folder=tmp_path).markdown
    assert {study["front"] for study in document(found)["studies"]} == {None}
    with pytest.raises(ValueError, match="has one objective"):
        pareto_rows(plan, make_record(make_plan(), tmp_path))


@pytest.mark.slow
def test_a_real_sweep_of_two_objectives_from_its_plan_to_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space = SearchSpace.of(
        {
            "method": "vpt",
            "fixed": {"deep": True},
            "search": {
                "num_tokens": {"choices": [1, 4, 8]},
                "lr": {"low": 0.1, "high": 5.0, "log": True},
            },
        },
        name="short",
    )
    sweep = Sweep.plan(
        "quickstart",
        tasks=["digits"],
        methods=[space],
        also={"minimize": "trained_parameters"},
        trials=4,
        epochs=1,
        pruner="none",
        precision="fp32",
        out=tmp_path / "both",
    )
    assert "minimize trained parameters" in capsys.readouterr().out
    sweep.run(engine="local")

    opened = Sweep.open(tmp_path / "both")
    points = opened.pareto()
    table = opened.table()
    for number in table.number:
        trial = table[table.number == number].iloc[0]
        better = table[
            (table.val_accuracy >= trial.val_accuracy)
            & (table.num_tuned_parameters <= trial.num_tuned_parameters)
            & (
                (table.val_accuracy > trial.val_accuracy)
                | (table.num_tuned_parameters < trial.num_tuned_parameters)
            )
        ]
        assert (number in set(points.number)) == better.empty
    assert list(points.columns)[6:] == [
        "trained_parameters",
        "as_good_for_less",
        "param.num_tokens",
        "param.lr",
    ]

    report = opened.report()
    assert "Pareto front: val % against trained parameters" in report.markdown
    assert "Accuracy against trained parameters" in report.write().read_text()

    file = tmp_path / "both/best/fronts/digits.short.yaml"
    told = read_yaml(file)
    assert [one["trial"] for one in told["points"]] == list(points.number)
    for one in told["points"]:
        assert (one["bundle"] is not None) == (one["trial"] == opened.best().number)
        assert one["config"]["deep"] is True
        assert one["bundle"] is None or (tmp_path / "both/best" / one["bundle"]).is_file()

    assert not opened.doctor().findings
    file.write_text("points: []")
    (finding,) = opened.doctor().findings
    assert finding.remedy == "repair" and "Pareto front of digits.short" in finding.text
    opened.repair()
    assert not opened.doctor().findings

    again = Sweep.plan(tmp_path / "both/sweep.yaml", out=tmp_path / "again")
    assert again.frozen_plan.also == TRAINED

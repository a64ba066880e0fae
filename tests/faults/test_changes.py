"""What a sweep stands on changed between run and resume: refused, with the difference."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from drivers import Drivers
from plans import make_plan, make_record
from suites import write_suite

from orchestrator.plan.plan import SweepPlan, load_plan
from orchestrator.plan.pruners.median import Median
from orchestrator.record.changes import refuse_changes, warn_of_other_software
from orchestrator.record.record import Record, open_record
from orchestrator.training.numerics import Engine


def test_a_changed_space_is_refused_with_the_difference(tmp_path: Path):
    plan = make_plan()
    make_record(plan, tmp_path)
    spaces = {name: dict(space) for name, space in plan.spaces.items()}
    search = dict(spaces["vpt_deep"]["search"])
    spaces["vpt_deep"]["search"] = {**search, "lr": {**search["lr"], "high": 1.0}}
    with pytest.raises(ValueError, match=r"space.search.lr.high: was 10.0, is 1.0"):
        make_record(replace(plan, spaces=spaces), tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"sampler": "tpe"}, "sampler: was 'random', is 'tpe'"),
        (
            {"pruner": Median(first_rung_epochs=2)},
            "pruner.name: was 'none', is 'median'",
        ),
        ({"engine": Engine(augment=True)}, "engine.augment: was False, is True"),
        ({"created": "2027-01-01T00:00:00+00:00"}, "created: was '2026"),
    ],
)
def test_another_plan_of_the_same_name_is_refused(change, told, tmp_path: Path):
    plan = make_plan()
    make_record(plan, tmp_path)
    with pytest.raises(ValueError, match=told):
        make_record(replace(plan, **change), tmp_path)


def test_more_trials_and_a_moved_weights_file_are_no_change(tmp_path: Path):
    plan = make_plan()
    make_record(plan, tmp_path)
    moved = replace(plan.backbone, weights="/elsewhere/weights.safetensors")
    studies = tuple(replace(study, num_trials=9) for study in plan.studies)
    make_record(replace(plan, backbone=moved, studies=studies), tmp_path)


def test_fields_that_an_older_version_did_not_store_are_no_change(tmp_path: Path):
    plan = make_plan()
    record = make_record(plan, tmp_path)
    study = record.optuna_study(plan.studies[0].name)
    stored = dict(study.user_attrs["plan"])
    for section, field in (("backbone", "normalised_by"), ("engine", "augment")):
        stored[section] = {k: v for k, v in stored[section].items() if k != field}
    study.set_user_attr("plan", stored)
    make_record(plan, tmp_path)
    with pytest.raises(ValueError, match=r"engine\.augment: was False, is True"):
        make_record(replace(plan, engine=Engine(augment=True)), tmp_path)


@pytest.fixture
def opened(planned: Path, tmp_path: Path) -> tuple[SweepPlan, Record]:
    folder = shutil.copytree(planned, tmp_path / "sweep")
    plan = load_plan(folder)
    return plan, open_record(plan, folder)


@pytest.mark.slow
def test_other_software_is_refused_or_accepted_on_record(opened, caplog):
    plan, record = opened
    refuse_changes(plan, record, accept_versions=False)
    older = replace(plan, versions={**plan.versions, "torch": "2.0.0", "code": "0123456789ab"})
    warn_of_other_software(plan, record)
    assert not caplog.messages
    warn_of_other_software(older, record)
    assert "torch: was '2.0.0'" in caplog.text
    with pytest.raises(ValueError, match=r"torch: was '2\.0\.0', is '2[^']+'\n  code: was '0123"):
        refuse_changes(older, record, accept_versions=False)
    refuse_changes(older, record, accept_versions=True)
    accepted = record.accepted_versions()
    assert accepted is not None and accepted["torch"] == plan.versions["torch"]
    refuse_changes(older, record, accept_versions=False)


@pytest.mark.slow
def test_other_weights_are_refused_before_anything_is_started(opened):
    plan, record = opened
    other = replace(plan, backbone=replace(plan.backbone, weights_sha256="ab" * 32))
    with pytest.raises(ValueError, match="the weights changed"):
        refuse_changes(other, record, accept_versions=True)


@pytest.mark.slow
def test_other_images_are_refused_with_the_name_of_their_task(drivers: Drivers, tmp_path: Path):
    suite = write_suite(tmp_path / "suite", ("colours_a",))
    request = {"backbone": "vit_quickstart", "methods": ["linear"], "trials": 1, "epochs": 4}
    folder = drivers.plan(tmp_path / "sweep", suite, **request)
    first, second, *_ = sorted((suite / "colours_a" / "images" / "train").iterdir())
    shutil.copy(second, first)
    assert drivers.run(folder) == 2, drivers.output
    assert "the images or labels of colours_a changed since" in drivers.output
    assert drivers.output.count("error: ") == 1 and "Traceback" not in drivers.output

"""A pruner is a dataclass: options, help, checks, plan entry and rungs are made from its fields."""

from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
from plans import made_pruner, make_plan, make_record
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.plan import plan_document, read_plan
from orchestrator.plan.pruners import PRUNERS
from orchestrator.plan.pruners.options import choices, plan_pruner, pruner_options
from orchestrator.support.field_docs import field_docs


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_is_documented_and_makes_one_of_optuna(name: str):
    kind = PRUNERS[name]
    assert kind.__doc__ and "(" not in kind.__doc__.partition("\n")[0]
    docs = field_docs(kind)
    assert all(docs[field.name] for field in fields(kind) if field.init)  # type: ignore[arg-type]
    pruner = kind(**{"first_rung_epochs": 2} if "first_rung_epochs" in docs else {})
    assert isinstance(pruner.make(), optuna.pruners.BasePruner)


@pytest.mark.parametrize("name", choices())
def test_the_entry_of_a_plan_is_read_as_it_was_written(name: str):
    plan = replace(make_plan(), pruner=made_pruner(name, 3))
    document = plan_document(plan)
    assert document["pruner"]["name"] == name
    assert read_plan(document, source="sweep.yaml").pruner == plan.pruner


def test_the_options_of_the_command_are_the_fields_with_their_documentation():
    help_text = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "400"}).output
    said = " ".join(help_text.replace("│", " ").split())
    assert {option.flag for option in pruner_options()} >= {"--reduction", "--first-rung"}
    for option in pruner_options():
        for owner in option.owners:
            (field,) = (f for f in fields(PRUNERS[owner]) if f.name == option.name)  # type: ignore[arg-type]
            assert field.type.__args__[0] is option.kind  # one option is of one type
        assert option.flag in said
        assert option.help in said


@pytest.mark.parametrize(
    ("name", "epochs", "warmup_epochs", "first"),
    [
        ("successive_halving", 100, 10, 50),
        ("successive_halving", 30, 20, 22),
        ("successive_halving", 5, 0, 3),
        ("successive_halving", 1, 0, 1),
        ("median", 100, 10, 50),
        ("hyperband", 100, 10, 15),
        ("patient", 100, 10, 15),
    ],
)
def test_first_rungs_are_half_way_or_begin_after_the_warm_up(name, epochs, warmup_epochs, first):
    pruner = plan_pruner(name, {}, epochs=epochs, warmup_epochs=warmup_epochs)
    assert pruner.first_epoch == first


@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("successive_halving", [3, 6, 12]),
        ("median", list(range(3, 21))),
        ("hyperband", list(range(3, 21))),
        ("patient", list(range(3, 21))),
        ("none", []),
    ],
)
def test_a_pruner_is_asked_from_its_first_rung_on(name: str, rungs: list[int]):
    pruner = made_pruner(name, 3)
    assert [epoch for epoch in range(1, 21) if pruner.asked_at(epoch)] == rungs
    needed = [epoch for epoch in range(1, 21) if pruner.must_be_validated(epoch)]
    assert needed == (rungs if name == "successive_halving" else [])
    assert pruner.first_epoch == (rungs[0] if rungs else None)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("sucessive_halving", {}, "did you mean 'successive_halving'"),
        (
            "median",
            {"reduction_factor": 3},
            "--reduction is no option of the pruner median; it is one of successive_halving, "
            "hyperband",
        ),
        ("wilcoxon", {}, "--pruner wilcoxon: it compares measurements that can come in any order"),
        ("none", {"first_rung_epochs": 3}, "--first-rung is no option of the pruner none"),
        ("hyperband", {"reduction_factor": 1}, "--reduction: expected a number from 2 to"),
        ("median", {"first_rung_epochs": 0}, "--first-rung: expected a number from 1 to"),
        ("median", {"first_rung": 2}, "did you mean 'first_rung_epochs'"),
    ],
)
def test_a_wrong_name_or_option_is_refused_in_one_line(name: str, options: dict, told: str):
    with pytest.raises(ValueError) as refused:
        plan_pruner(name, options)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("falls_after", "wrapped", "stopped_after"),
    [(3, "none", 6), (3, "median", None), (20, "none", None)],
)
def test_a_patient_pruner_waits_until_a_trial_got_worse(falls_after, wrapped, stopped_after):
    """With a patience of 2, three epochs in a row must lie below the best before them."""
    options = {"patience": 2, "wrapped": wrapped, "first_rung_epochs": 1}
    study = optuna.create_study(direction="maximize", pruner=plan_pruner("patient", options).make())
    trial = study.ask()  # alone, so that no median stops it
    for epoch in range(1, 11):
        trial.report(0.5 + (epoch if epoch <= falls_after else -epoch) / 100, epoch)
        if trial.should_prune():
            break
    assert (epoch if epoch < 10 else None) == stopped_after


def test_the_command_hands_over_what_was_given_and_nothing_else():
    asked = ["sweep", "quickstart", "--pruner", "median", "--reduction", "3", "--dry-run"]
    refused = CliRunner().invoke(app, asked)
    assert str(refused.exception).startswith("--reduction is no option of the pruner median")


@pytest.mark.parametrize("name", ["successive_halving", "median", "hyperband", "none"])
def test_an_entry_of_before_pruners_had_fields_of_their_own_is_read(name: str, tmp_path: Path):
    """Each named a reduction and a first rung then, in sweep.yaml and in the storage."""
    given = {} if name == "none" else {"first_rung_epochs": 3}
    if name in ("successive_halving", "hyperband"):
        given["reduction_factor"] = 4
    plan = replace(make_plan(), pruner=plan_pruner(name, given))
    entry = {"name": name, "reduction_factor": 4, "first_rung_epochs": 3}
    older = {**plan_document(plan), "format": 1, "pruner": entry}
    assert read_plan(older, source="sweep.yaml") == plan
    study = make_record(plan, tmp_path).optuna_study(plan.studies[0].name)
    study.set_user_attr("plan", {**study.user_attrs["plan"], "pruner": entry})
    make_record(plan, tmp_path)
    other = "median" if name != "median" else "none"
    with pytest.raises(ValueError, match=rf"pruner\.name: was '{name}', is '{other}'"):
        make_record(replace(plan, pruner=made_pruner(other, 3)), tmp_path)

"""A sweep in a file: the words of the command as keys, what is typed goes before."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import without_waiting
from plans import make_plan

from orchestrator import Sweep
from orchestrator.api.plan_again import told_again
from orchestrator.api.requests import PlanRequest, StartRequest
from orchestrator.api.sweep_file import BESIDE_THE_COMMAND, to_be_planned, with_file
from orchestrator.cli import main
from orchestrator.data.split import split_rule
from orchestrator.plan.plan import plan_document, save_plan
from orchestrator.plan.pruners.options import pruner_options
from orchestrator.plan.pruners.successive_halving import SuccessiveHalving
from orchestrator.run.request import RunRequest
from orchestrator.support.options import fields_of
from orchestrator.support.yaml_io import dump_yaml

EXAMPLE = Path(__file__).parents[1] / "examples/my_sweep.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "my_sweep.yaml"
    path.write_text(text)
    return path


def test_the_example_has_keys_of_every_kind():
    told = with_file({"suite": str(EXAMPLE)})
    assert told == {
        "suite": "quickstart",
        "tasks": ["digits"],
        "methods": ["linear", "vpt_deep"],
        "trials": 8,
        "epochs": 20,
        "seed": 0,
        "sampler": "tpe",
        "pruner": "successive_halving",
        "pruner_options": {"reduction_factor": 2},
        "max_hours": 2.0,
        "finalize": True,
    }


def test_every_option_of_the_command_is_a_key(tmp_path):
    fields = [f for kind in (PlanRequest, RunRequest, StartRequest) for f in fields_of(kind)]
    fields = [f for f in fields if f.option.in_commands and not f.option.positional]
    fields = [f for f in fields if f.name not in BESIDE_THE_COMMAND]
    fields += [option.field for option in pruner_options()]
    for field in fields:
        word = field.flag.removeprefix("--")
        for key in (word, word.replace("-", "_")):
            told = with_file({"suite": written(tmp_path, f"suite: quickstart\n{key}:\n")})
            assert told.keys() - {"pruner_options"} == {
                "suite"
            }  # known; and empty, as if not there


def test_what_is_typed_goes_before_and_takes_along_what_belonged_to_the_other(tmp_path):
    file = written(
        tmp_path,
        "suite: quickstart\ntrials: 40\nbackbone: a\nweights: a.pth\npruner: hyperband\n"
        "reduction: 3\ntasks: cifar, eurosat\n",
    )
    assert with_file({"suite": file})["tasks"] == ["cifar", "eurosat"]
    told = with_file({"suite": file, "trials": 4, "backbone": "b", "pruner": "median"})
    assert (told["trials"], told["backbone"]) == (4, "b")
    assert "weights" not in told
    assert "pruner_options" not in told
    told = with_file({"suite": file, "pruner_options": {"first_rung_epochs": 2}})
    assert told["pruner_options"] == {"reduction_factor": 3, "first_rung_epochs": 2}


def test_a_folder_of_a_model_begins_at_the_folder_of_the_file(tmp_path):
    file = written(tmp_path, "suite: quickstart\nbackbone: local-dir:models/uni\n")
    assert with_file({"suite": file})["backbone"] == f"local-dir:{tmp_path / 'models/uni'}"
    file = written(tmp_path, "suite: quickstart\nbackbone: 'hf-hub:uni'\n")
    with pytest.raises(ValueError, match=r":2: backbone.*give hf-hub:OWNER/NAME|:2.*OWNER/NAME"):
        with_file({"suite": file})


def test_paths_begin_at_the_folder_of_the_file_and_names_stay_names(tmp_path):
    (tmp_path / "photos").mkdir()
    file = written(
        tmp_path,
        "suite: photos\nweights: w/vit.pth\nout: /elsewhere/x\n"
        "method: [linear, my_vpt.yaml, ../my_method.py]\n",
    )
    told = with_file({"suite": str(file)})
    assert told["suite"] == str(tmp_path / "photos")
    assert told["weights"] == tmp_path / "w/vit.pth"
    assert told["out"] == Path("/elsewhere/x")
    assert told["methods"] == [
        "linear",
        str(tmp_path / "my_vpt.yaml"),
        str(tmp_path / "../my_method.py"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: quickstart\ntrails: 3\n", ":2: unknown key 'trails'; did you mean 'trials'?"),
        (
            "suite: quickstart\n\ntrials: many\n",
            ":3: trials: expected a whole number, found 'many'",
        ),
        ("suite: quickstart\ntrials: 0\n", ":2: trials must be at least 1, found 0"),
        ("suite: quickstart\nlaunch: grph\n", ":2: unknown value of launch 'grph'; did you mean"),
        ("suite: quickstart\nmethod:\n\t- linear\n", ":3: a tab cannot indent"),
        ("suite: quickstart\nreduction: 1\n", ":2: reduction must be at least 2, found 1"),
        ("suite: quickstart\nmethod: a\nmethods: b\n", ":3: methods: stands there twice"),
        ("suite: quickstart\ndry-run: true\n", "my_sweep.yaml --dry-run"),
        ("trials: 3\n", "suite is missing: quickstart, vtab, fgvc, or a folder"),
        ("method: vpt\nsearch: {num_tokens: {choices: [1]}}\n", "takes it with --method"),
        ("- a\n", "expected options of `orchestrator sweep`"),
        ("format: 2\nname: x\n", "my_sweep.yaml: "),
    ],
)
def test_what_cannot_be_is_told_with_file_and_line(text, message, tmp_path, monkeypatch, capsys):
    file = written(tmp_path, text)
    monkeypatch.setattr(sys, "argv", ["orchestrator", "sweep", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = without_waiting(capsys.readouterr().err)
    assert ended.value.code == 2
    assert told.startswith(f"error: {file}")
    assert message in told
    with pytest.raises(ValueError) as refused:
        Sweep.plan(file)
    assert str(refused.value) in told


def test_a_folder_that_is_a_sweep_is_refused_with_what_was_meant(tmp_path):
    save_plan(make_plan(), tmp_path)
    with pytest.raises(ValueError, match=r"orchestrator resume .* plans the same search again"):
        with_file({"suite": str(tmp_path)})


def test_in_python_what_is_of_the_run_is_not_lost_in_silence(caplog):
    with caplog.at_level(logging.WARNING):
        told = to_be_planned({"suite": EXAMPLE, "trials": 2})
    assert told["trials"] == 2
    assert "max_hours" not in told
    assert "of the run, not of the plan: max_hours, finalize" in caplog.text


def test_a_plan_is_the_same_search_again(tmp_path):
    pruner = SuccessiveHalving(first_rung_epochs=2, reduction_factor=3)
    plan = replace(make_plan(), seed=7, pruner=pruner)
    save_plan(plan, tmp_path)
    told = with_file({"suite": str(tmp_path / "sweep.yaml")})
    assert told["again"] == plan
    assert (told["suite"], told["seed"], told["backbone"]) == (plan.suite, 7, plan.backbone.name)
    assert told["tasks"] == [task.name for task in plan.tasks]
    spaces = {space.name: space.document for space in told["methods"]}
    assert spaces == {name: space.document for name, space in plan.parsed_spaces.items()}
    assert told["trials"] == max(study.num_trials for study in plan.studies)
    assert told["precision"] == plan.engine.precision
    assert told["pruner"] == "successive_halving"
    expected = {"first_rung_epochs": 2, "reduction_factor": 3, "freeze": False}
    assert told["pruner_options"] == expected
    other = with_file({"suite": str(tmp_path / "sweep.yaml"), "backbone": "b", "trials": 1})
    assert other["trials"] == 1
    assert not {"weights", "image_size", "normalization"} & other.keys()


def test_what_is_not_as_it_was_is_told():
    then = make_plan()
    (first,) = told_again(then, then)
    assert first.startswith(f"planned again: the choices of {then.name}")
    task = replace(then.tasks[0], fingerprint="0" * 64)
    now = replace(
        then,
        tasks=(task, *then.tasks[1:]),
        versions={**then.versions, "torch": "99"},
        backbone=replace(then.backbone, weights_sha256="1" * 64),
    )
    told = "\n".join(told_again(then, now))
    assert f"task {task.name}: its images or labels are others" in told
    assert "weights of" in told


def test_a_plan_of_before_is_taken(tmp_path):
    document = plan_document(make_plan())
    document.pop("split_seed")
    (tmp_path / "old.yaml").write_text(dump_yaml(document))
    assert with_file({"suite": tmp_path / "old.yaml"})["split_seed"] == document["seed"]


def test_the_fractions_of_a_plan_are_all_of_their_digits(tmp_path):
    """Rounded, they would be another split, or none that makes 100."""
    rule = split_rule(0, "66.666667/16.666667/16.666666")
    plan = replace(make_plan(), split=rule.fractions, split_seed=0)
    (tmp_path / "plan.yaml").write_text(dump_yaml(plan_document(plan)))
    again = with_file({"suite": tmp_path / "plan.yaml"})["split"]
    assert split_rule(0, again).fractions == pytest.approx(rule.fractions, abs=1e-12)


@pytest.mark.slow
def test_the_example_is_planned_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["sweep", str(EXAMPLE), "--trials", "2", "--precision", "fp32", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["orchestrator", *typed])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "2 studies, 4 trials" in told
    assert "digits: 10 classes" in told
    assert not list(tmp_path.iterdir())  # nothing was started


def test_what_is_spent_on_near_ties_goes_with_the_last_stage_alone():
    final = StartRequest(finalize=True, most_finalists=6, repeats=1).final
    assert final is not None and final.protocol == {"most_finalists": 6, "repeats": 1}
    plain = StartRequest(finalize=True).final
    assert plain is not None and plain.protocol == {}
    assert StartRequest().final is None
    with pytest.raises(ValueError, match=r"--repeats is of the last stage: .* --finalize"):
        _ = StartRequest(repeats=1).final
    with pytest.raises(ValueError, match=r"--most-finalists must be at least --finalists, 3"):
        _ = StartRequest(finalize=True, most_finalists=2).final
    with pytest.raises(ValueError, match=r"--repeats must be from 0 to 10, found 11"):
        _ = StartRequest(finalize=True, repeats=11).final

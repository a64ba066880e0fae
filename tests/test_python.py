"""The Python interface: what `orchestrator` exports, and `Sweep` from its folder or its storage."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image
from plans import make_plan, make_record, run_trial
from test_finalize import finish
from typer.testing import CliRunner

import orchestrator
from orchestrator import SearchSpace, Sweep
from orchestrator.api.keywords import request_from
from orchestrator.api.requests import FinalizeRequest, PlanRequest, ResumeRequest
from orchestrator.cli import app
from orchestrator.data.suites import Suite
from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.plan import save_plan
from orchestrator.record.finals import FinalRecord
from orchestrator.record.stored_plan import store_plan
from orchestrator.run.final_queue import FinalQueue
from orchestrator.support.options import fields_of

ROOT = Path(__file__).parents[1]
PAGE = "docs/python.md"
STUDY = "caltech101.vpt_deep"


def test_what_is_exported_is_what_programs_may_rely_on():
    assert orchestrator.__all__ == ["SearchSpace", "Sweep", "load_bundle"]
    for name in orchestrator.__all__:
        assert inspect.getdoc(getattr(orchestrator, name))
        assert name in dir(orchestrator)
    with pytest.raises(AttributeError, match="no attribute 'sweep_'"):
        orchestrator.sweep_  # noqa: B018


def test_importing_the_package_alone_imports_nothing_heavy():
    heavy = ("torch", "timm", "ray", "optuna", "mlflow", "pandas")
    program = f"import orchestrator, sys; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("method", "command", "request_"),
    [
        ("plan", "sweep", PlanRequest),
        ("run", "resume", ResumeRequest),
        ("finalize", "finalize", FinalizeRequest),
    ],
)
def test_a_method_takes_the_options_of_its_command(method, command, request_):
    parameters = inspect.signature(getattr(Sweep, method)).parameters
    cli = {one.name: one for one in typer.main.get_command(app).commands[command].imported.params}
    for field in fields_of(request_):
        assert field.option.help in inspect.getdoc(getattr(Sweep, method))
        if not field.option.in_commands:
            assert field.name == "pruner_options"  # of which each is an option
            continue
        assert field.flag in cli[field.name].opts or field.option.positional
        assert parameters[field.name].default in (field.default, inspect.Parameter.empty)
        assert cli[field.name].help == field.option.help


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trails": 3}, TypeError, "unknown keyword 'trails'; did you mean 'trials'"),
        ({"trials": 0}, ValueError, "--trials must be at least 1, found 0"),
        ({"precision": "fp23"}, ValueError, "did you mean 'fp32'"),
        ({"sampler": "tpee"}, ValueError, "did you mean 'tpe'"),
        ({"methods": "vpt_dep"}, ValueError, "did you mean 'vpt_deep'"),
        ({"methods": []}, ValueError, "methods: names none"),
        ({"trials": "8"}, ValueError, "--trials: expected a whole number, found '8'"),
        ({"trials": 2.5}, ValueError, "--trials: expected a whole number, found 2.5"),
        ({"seed": True}, ValueError, "--seed: expected a whole number, found True"),
        ({"frozen_cache": "no"}, ValueError, "expected True or False, found 'no'"),
        ({"tasks": [1]}, ValueError, "--tasks: expected a list, each of it a text, found 1"),
        ({"tasks": {"digits": 3}}, ValueError, "--tasks: expected a list, found {'digits': 3}"),
        ({"methods": {"linear": {"epochs": 3}}}, ValueError, "--method: expected a list, found"),
        ({"out": 5}, ValueError, "--out: expected a path, found 5"),
        ({"pruner_options": "x"}, ValueError, "pruner_options: expected a dictionary"),
    ],
)
def test_what_cannot_be_is_said_at_once(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Sweep.plan("quickstart", **{"out": tmp_path / "sweep", **options})
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_another_sweep_took_since_the_plan_is_refused(tmp_path):
    suite = Suite(name="vtab", tasks=(), root=None, default_backbone=None)
    mine, others = (Sweep(make_plan(), tmp_path / "sweep", suite=suite) for _ in range(2))
    others.save()
    with pytest.raises(ValueError, match="belongs to another sweep"):
        mine.save()
    with pytest.raises(ValueError, match="was planned and not run yet"):
        mine.table()
    others.save()  # its own


def test_numbers_of_numpy_are_numbers():
    given = {"trials": np.int64(3), "seed": np.int8(1), "methods": SearchSpace.load("linear")}
    request = request_from(PlanRequest, ["vtab"], given)
    assert [type(request.trials), type(request.seed)] == [int, int]
    assert request.methods == [SearchSpace.load("linear")]
    seeds = request_from(FinalizeRequest, [], {"seeds": np.arange(2), "max_hours": np.float32(1)})
    assert (seeds.seeds, type(seeds.max_hours)) == ([0, 1], float)


def test_a_space_can_be_written_in_python():
    search = {"lr": {"low": 0.1, "high": 1.0}}
    space = SearchSpace.of({"method": "linear", "search": search}, name="mine")
    assert (space.name, space.method) == ("mine", "linear")
    assert SearchSpace.load("vpt_deep").method == "vpt"
    with pytest.raises(ValueError, match=r"space mine: .*did you mean 'lr'"):
        SearchSpace.of({"method": "linear", "search": {"lrr": {"low": 0, "high": 1}}}, name="mine")


class Kept:
    """A sweep that was run and finalized, in a folder and, alike, in a database elsewhere."""

    def __init__(self, place: Path) -> None:
        self.plan = make_plan(num_trials=3)
        self.folder, elsewhere = place / "sweeps" / self.plan.name, place / "database"
        for where in (self.folder, elsewhere):
            where.mkdir(parents=True)
            self._fill(where)
        save_plan(self.plan, self.folder)
        self.storage = f"sqlite:///{elsewhere / 'studies.db'}"

    def _fill(self, where: Path) -> None:
        record = make_record(self.plan, where)
        store_plan(self.plan, record)
        for accuracy in (0.5, 0.7, 0.6):
            run_trial(record, STUDY, accuracy=accuracy)
        finals = FinalRecord(self.plan, record, f"sqlite:///{where / 'studies.db'}")
        finals.begin(STUDY, FinalProtocol(num_finalists=1, num_folds=2, seeds=(1, 2)), "f")
        queue = FinalQueue(self.plan, finals, where / "final_runs", lambda line: None)
        for index in range(4):
            queue.next_run(str(index))
            finish(queue, str(index), 0.6, test_majority=2)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def elsewhere(kept, tmp_path, monkeypatch) -> Path:
    """A folder of a machine that has never seen the sweep's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    return tmp_path


def test_tables_have_their_documented_columns(kept):
    sweep = Sweep.open(kept.folder)
    table = sweep.table()
    assert list(table.val_accuracy) == pytest.approx([0.5, 0.7, 0.6])
    assert set(table.state) == {"complete"}
    assert "param.num_tokens" in table
    named = re.findall(r"^\| `([a-z_0-9]+)` \|", (ROOT / PAGE).read_text(), re.M)
    assert named
    assert set(named) == {name for name in table if not name.startswith("param.")}
    (row,) = sweep.status().to_dict("records")
    assert (row["complete"], row["best_val_accuracy"]) == (3, pytest.approx(0.7))
    assert sweep.best().number == sweep.best("caltech101").number == 1
    with pytest.raises(ValueError, match="did you mean 'caltech101'"):
        sweep.best("caltech")


def test_a_notebook_shows_a_sweep_and_its_report(kept, tmp_path):
    sweep = Sweep.open(kept.folder)
    assert "0.7" in sweep._repr_html_()
    report = sweep.report()
    assert "70.0" in report._repr_markdown_()
    page = report.write(tmp_path / "page.html")
    assert page.read_text() == report.html


def test_the_storage_alone_gives_what_the_folder_gives(kept, elsewhere):
    there, here = Sweep.open(kept.folder), Sweep.open(kept.plan.name, storage=kept.storage)
    assert not here.has_folder
    assert list(here.table().val_accuracy) == list(there.table().val_accuracy)
    assert here.final_results() == there.final_results()
    (result,) = here.final_results()
    assert result.test_accuracies == {1: 0.6, 2: 0.6}
    assert here.report().document == there.report().document
    assert list(elsewhere.iterdir()) == [], "who only looks writes nothing"


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        return 2, f"error: {done.exception}"
    return done.exit_code, done.output


def test_commands_need_the_storage_alone(kept, elsewhere):
    name, storage = kept.plan.name, ("--storage", kept.storage)
    code, told = command("report", name, "--format", "json", *storage)
    assert code == 0
    assert json.loads(told) == json.loads(json.dumps(Sweep.open(kept.folder).report().document))
    code, told = command("report", name, *storage)
    assert f"no page: {name} is not here" in told
    code, told = command("export", name, *storage)
    assert code == 1
    assert f"`orchestrator resume {name}` trains them again" in told
    code, told = command("doctor", name, *storage)
    assert code == 0, told
    assert "only storage, trials could be looked at" in told
    assert list(elsewhere.iterdir()) == []
    code, told = command("status", "nothing", *storage)
    assert (code, f"did you mean {name!r}" in told or "known: " in told) == (2, True)


def test_finalize_needs_the_storage_alone(kept, elsewhere):
    name, storage = kept.plan.name, ("--storage", kept.storage)
    code, told = command("finalize", name, "--dry-run", *storage)
    assert (code, told) == (0, "nothing is left to be run\n")
    assert list(elsewhere.iterdir()) == []
    code, told = command("finalize", name, "--json", *storage)
    assert code == 0, told
    (outcome,) = json.loads(told[told.index("[") : told.rindex("]") + 1])
    assert outcome["test_accuracies"] == {"1": 0.6, "2": 0.6}
    assert (elsewhere / name / "final.json").is_file()
    assert (elsewhere / name / "sweep.yaml").is_file(), "other commands find it from now on"


def blocks(page: str) -> str:
    """The Python examples of a page, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S))


def run_script(code: str, folder: Path) -> str:
    """A script of a user, in a process that is not ours."""
    Image.new("RGB", (32, 32)).save(folder / "new.png")
    (folder / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "ORCHESTRATOR_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_script_of_the_readme_and_the_examples_of_the_python_page_run(tmp_path):
    script = blocks("README.md").replace(".run()", '.run(engine="local")') + blocks(PAGE)
    told = run_script(script, tmp_path)
    assert "2/2 trials" in told
    assert re.search(r"digits.linear +1 +complete", told), "the table"
    assert "Prediction(" in told
    assert list(tmp_path.glob("sweeps/*/report.html"))


INTERRUPTED = """
import signal
from orchestrator import Sweep

sweep = Sweep.plan("quickstart", tasks="digits", methods="linear", trials=20, epochs=50, out="s")
handler = signal.getsignal(signal.SIGINT)
try:
    sweep.run(engine="local")
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert signal.getsignal(signal.SIGINT) is handler
print("kept", len(sweep.table()), (sweep.folder / "results.parquet").is_file())
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_order_and_comes_through(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env={**os.environ, "ORCHESTRATOR_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "1/20 trials" in line:
                process.send_signal(signal.SIGINT)
                break
        told, error = process.communicate(timeout=300)
    assert "interrupted\nkept " in told, error
    assert told.endswith("True\n")
    assert int(told.split()[-2]) < 20

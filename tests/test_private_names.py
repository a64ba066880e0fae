"""The names of Ray, Optuna, MLflow and timm that we use without a promise: all of them, checked.

The tables stand beside what uses them. A private name that is in none of them fails here: look for
a public way first, and else add it to the table of its library.
"""

import ast
import functools
import inspect
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ray.tune import tune as tune_module
from ray.tune.execution.tune_controller import TuneController

import methods
import orchestrator
from methods import timm_private
from orchestrator.cluster import ray_private
from orchestrator.record import optuna_private
from orchestrator.run.ray import controller
from orchestrator.support.private_names import arguments, check, differences, is_minor
from orchestrator.tracking.mlflow import private as mlflow_private

LIBRARIES = ("ray", "optuna", "mlflow", "timm")


TABLES: dict[str, dict[str, str]] = {
    "orchestrator/cluster/ray_private.py": ray_private.RELIES_ON,
    "orchestrator/run/ray/controller.py": controller.RELIES_ON,
    "orchestrator/record/optuna_private.py": {
        **optuna_private.RELIES_ON,
        **optuna_private.TABLES,
    },
    "methods/timm_private.py": timm_private.RELIES_ON,
    # A study as sampler and pruner see it, whose writes are kept back; a trial's bracket.
    "orchestrator/record/held_back.py": {
        "optuna.Study()._storage": "",
        "optuna.pruners._filter_study": "(study, trial)",
    },
    "orchestrator/tracking/mlflow/private.py": mlflow_private.RELIES_ON,
}
"""What each file relies on. No other file may."""

USED_WITH = {"orchestrator/record/database.py": "orchestrator/record/optuna_private.py"}
"""Files for which the table of another was made: what our storage overrides of Optuna's."""


@pytest.mark.parametrize("file", TABLES)
def test_every_name_is_what_it_was(file: str):
    assert differences(TABLES[file]) == []


def is_of_a_library(name: str) -> bool:
    return name.partition(".")[0] in LIBRARIES


def is_private(name: object) -> bool:
    dunder = str(name).startswith("__") and str(name).endswith("__")
    return isinstance(name, str) and name.startswith("_") and name.isidentifier() and not dunder


class PrivateNames(ast.NodeVisitor):
    """The private names in one file that may be a library's: not ours, nor of another package."""

    def __init__(self, tree: ast.Module) -> None:
        self.modules: dict[str, str] = {}
        """From where each imported name comes."""
        self.own = {name for kind, name in definitions(tree) if kind == "self"}
        """What the file keeps in its objects."""
        self.found: set[str] = set()
        self.visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self.modules[(name.asname or name.name).partition(".")[0]] = name.name
            self._take(name.name, name.name.split("."))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for name in node.names:
            self.modules[name.asname or name.name] = module
            self._take(module, [*module.split("."), name.name])

    def _take(self, module: str, names: list[str]) -> None:
        if is_of_a_library(module):
            self.found |= set(filter(is_private, names))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        root: ast.expr = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        start = root.id if isinstance(root, ast.Name) else ""
        module = self.modules.get(start, "")
        is_anothers = module and not is_of_a_library(module) and not module.startswith(OURS)
        is_ours = node.attr in our_names() or (start == "self" and node.attr in self.own)
        if is_private(node.attr) and not is_anothers and not is_ours:
            self.found.add(node.attr)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """What bears one of their names in a class that is made from theirs overrides it."""
        self.generic_visit(node)
        bases = {self.modules.get(b.id, "") for b in node.bases if isinstance(b, ast.Name)}
        if any(map(is_of_a_library, bases)):
            made = {name for _, name in definitions(ast.Module(node.body, []))}
            self.found |= {name for name in made & names_in_tables() if is_private(name)}

    def visit_Call(self, node: ast.Call) -> None:
        """Also options, and names in getattr, setattr, replaced."""
        self.generic_visit(node)
        self.found |= {k.arg for k in node.keywords if k.arg and is_private(k.arg)}
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "replaced"):
            named = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            self.found |= {named} if isinstance(named, str) and is_private(named) else set()


OURS = ("orchestrator", "methods")


def definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every name that is defined: by itself, or kept in `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield "plain", node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield "plain", node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            yield "self", node.attr


@functools.cache
def trees() -> dict[str, ast.Module]:
    found = {}
    for package in (orchestrator, methods):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            found[str(path.relative_to(root.parent))] = ast.parse(path.read_text())
    return found


@functools.cache
def our_names() -> set[str]:
    return {name for tree in trees().values() for _, name in definitions(tree)} - names_in_tables()


@functools.cache
def names_in_tables() -> set[str]:
    return {own_name(name) for table in TABLES.values() for name in table}


def own_name(name: str) -> str:
    """The last part of `package.Class().kept`, and the option of `package.function(option)`."""
    return name.rstrip(")").replace("(", ".").rpartition(".")[2]


def parts(table: dict[str, str]) -> set[str]:
    return set(filter(is_private, ".".join(table).replace("(", ".").replace(")", ".").split(".")))


@functools.cache
def used_in(file: str) -> set[str]:
    return PrivateNames(trees()[file]).found


def test_no_file_uses_a_private_name_that_is_not_in_its_table():
    known = {file: parts(TABLES.get(USED_WITH.get(file, file), {})) for file in trees()}
    unknown = {file: used_in(file) - known[file] for file in trees()}
    assert {file: names for file, names in unknown.items() if names} == {}


@pytest.mark.parametrize("file", TABLES)
def test_no_table_has_a_name_that_is_not_used(file: str):
    files = [file, *(one for one, of in USED_WITH.items() if of == file)]
    used = set().union(*map(used_in, files))
    assert set(filter(is_private, map(own_name, TABLES[file]))) - used == set()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from ray._private import worker", "_private"),
        ("from optuna.storages._rdb.models import TrialModel", "_rdb"),
        ("import timm.models._registry", "_registry"),
        ("import ray; ray.tune._hidden()", "_hidden"),
        ("def look(study): return study._thread_local", "_thread_local"),
        ("import ray; ray.init(_redis_password='x')", "_redis_password"),
        ("import mlflow; getattr(mlflow, '_last_active_run_id')", "_last_active_run_id"),
        ("class Ours:\n    def get(self): return self._of_a_base_class", "_of_a_base_class"),
    ],
)
def test_a_new_use_is_seen(line: str, name: str):
    assert PrivateNames(ast.parse(line)).found == {name}


# What is checked when a library is used


class Library:
    """Stands for one of a library's classes."""

    def __init__(self, **options: object) -> None:
        self._kept = options.pop("_hidden", None)

    def method(self, one: int, *others: int, named: bool = False, **rest: object) -> None: ...


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("Library.method", "(self, one, *others, named, **rest)", None),
        ("Library.method", "(self, one)", "takes (self, one, *others, named, **rest), not (self"),
        ("Library.gone", "(self)", "is not there"),
        ("Library", "", None),
        ("Library()._kept", "", None),
        ("Library()._gone", "", "is not kept any more"),
        ("Library.__init__(_hidden)", "", None),
        ("Library.__init__(_other)", "", "is not an option any more"),
    ],
)
def test_a_name_that_changed_is_told(name: str, known: str, said: str | None):
    told = differences({f"{__name__}.{name}": known})
    assert told == [] if said is None else (len(told) == 1 and said in told[0])


def test_a_module_that_is_gone_is_told():
    assert differences({"ray._private.no_such_module.name": ""}) != []


def test_arguments_are_told_by_name():
    assert arguments(lambda a, /, b, *, c=1: None) == "(a, b, *, c)"
    assert str(inspect.signature(lambda a, /, b, *, c=1: None)) != "(a, b, *, c)"


@pytest.mark.parametrize(
    ("found", "tested", "same"),
    [
        ("2.60.0", "2.60", True),
        ("2.60", "2.60", True),
        ("2.61.0", "2.60", False),
        ("2.6", "2.60", False),
    ],
)
def test_a_minor_version(found: str, tested: str, same: bool):
    assert is_minor(found, tested) == same


def test_another_minor_version_with_the_same_names_is_warned_of(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        check("ray", "2.60.3", "2.60", {})
        assert caplog.messages == []
        check("ray", "2.61.0", "2.60", {})
    assert caplog.messages == ["tested with ray 2.60; found 2.61.0"]


def test_the_requirements_are_the_minor_versions_that_were_tested():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["cluster"]
    for library, tested in (
        ("ray", ray_private.TESTED),
        ("optuna", optuna_private.TESTED),
        ("mlflow", mlflow_private.TESTED),
    ):
        major, minor = map(int, tested.split("."))
        named = [line for line in map(Requirement, lines) if line.name == library]
        assert named
        for line in named:
            assert f"{tested}.0" in line.specifier
            assert f"{major}.{minor + 1}.0" not in line.specifier


def test_a_tune_that_calls_in_another_way_is_refused_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(TuneController, "_trial_task_failure", lambda self, trial: None)
    with (
        pytest.raises(
            ValueError,
            match=r"^ray .* cannot be used: tested with ray 2.60, and now "
            r".*TuneController._trial_task_failure takes \(self, trial\), not",
        ) as refused,
        controller.sweeps_controller(),
    ):
        raise AssertionError("it was let in")
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    with controller.sweeps_controller():
        pass


def test_tunes_controller_is_ours_only_while_a_schedule_runs():
    assert tune_module.TuneController is TuneController
    with pytest.raises(KeyError), controller.sweeps_controller():
        assert tune_module.TuneController is controller.SweepController
        raise KeyError
    assert tune_module.TuneController is TuneController


def test_what_tune_takes_from_the_environment_is_ours_only_while_a_schedule_runs(
    monkeypatch: pytest.MonkeyPatch,
):
    for name in controller.OPTIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "7")  # of the user
    before = dict(os.environ)
    with controller.sweeps_controller():
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
        assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "7"
    assert dict(os.environ) == before


def test_importing_us_changes_ray_for_nobody():
    look = """
import sys
import ray, ray.tune
from ray._private import ray_constants, services, utils, worker
from ray.air.execution._internal import actor_manager
from ray.tune import tune
from ray.tune.execution import tune_controller

def state():
    modules = [sys.modules[n] for n in sys.modules if n.partition(".")[0] == "ray"]
    classes = [tune_controller.TuneController, actor_manager.RayActorManager]
    return {
        (owner.__name__, name): id(value)
        for owner in [*modules, *classes]
        for name, value in list(vars(owner).items())
        if callable(value)
    } | {"cluster": ray_constants.ENABLE_RAY_CLUSTER}

before = state()
import orchestrator.cli, orchestrator.cluster.reach
import orchestrator.run.finalize, orchestrator.run.sweep, orchestrator.run.ray.engine
after = state()
print({name for name, value in before.items() if after.get(name) != value})
"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr

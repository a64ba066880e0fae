"""Methods that do not come with the package: a file beside its space, or an installed package."""

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import plans
import pytest
import test_bundle
from suites import write_suite, write_task
from test_sweep import run
from typer.testing import CliRunner

from methods import METHODS
from orchestrator import Sweep
from orchestrator.bundle.bundle import load_bundle
from orchestrator.bundle.explain import explain
from orchestrator.cli import app
from orchestrator.plan.plan import load_plan, plan_document, read_plan
from orchestrator.plan.space import default_spaces, load_space
from orchestrator.record.record import open_record
from orchestrator.report.collect import collect
from orchestrator.report.published import published_method
from orchestrator.training import own_methods
from orchestrator.training.named_methods import VARIABLE, use_named, warn_of_changed_files

TOY = '''
"""Shallow prompts that say how long they are. Whoever runs this file leaves a trace."""

import os
from dataclasses import dataclass
from typing import ClassVar

from methods import Method, Recipe
from methods.method import Portrait
from methods.prompts import Prompts, uniform_prompts

if trace := os.environ.get("TRACE"):
    with open(trace, "a") as file:
        file.write("run\\n")


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """Two prompts, or as many as `count` says."""

    title: ClassVar[str] = "Toy"
    paper: ClassVar[str] = "https://example.org/toy"
    learns_prompts = True
    published_as = {"Toy-Shallow": {}}

    count: int = 2
    """Prompts."""

    @property
    def length(self):
        return self.count

    def recipe(self):
        return Recipe()

    def tuning(self, vit, generator, images):
        return ToyPrompts(uniform_prompts(vit, (1, self.count, vit.embed_dim), generator))


class ToyPrompts(Prompts):
    def __init__(self, prompt):
        super().__init__(prompt, deep=False)

    def portraits(self):
        length = self.prompt.norm().item()
        return [Portrait(title="Loudness", text="Their length.", name="length", values=[length])]
'''
SPACE = "method: toy\nsearch:\n  count: {choices: [1, 2]}\n  lr: {choices: [0.1, 0.5]}\n"


@pytest.fixture(autouse=True)
def nothing_is_named_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kept = [
        (registry, dict(registry))
        for registry in (
            METHODS,
            own_methods.OWN,
            own_methods.INSTALLED,
            own_methods.INSTALLED_SPACES,
        )
    ]
    for module in [name for name in sys.modules if name.startswith("own_method_")]:
        del sys.modules[module]
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)


def write_toy(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(SPACE)
    (folder / "toy.py").write_text(TOY)
    return folder / "toy.py"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a method, its space, and an entry point, as pip would have put it there."""
    site = tmp_path / "site-packages"
    write_toy(site)
    (site / "toy.yaml").write_text(SPACE + "searched_by_default: true\n")
    about = site / "toy_methods-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-methods\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[orchestrator.methods]\ntoy = toy:Toy\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    own_methods._use_installed(metadata.entry_points(group=own_methods.ENTRY_POINTS))
    assert own_methods.OWN["toy"].origin == "toy-methods 1.0"


def test_with_three_touches_a_method_is_searched_reported_and_explained(
    installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its file, its line, its page: nothing else knows its name."""
    assert [space.name for space in default_spaces()][-1] == "toy"
    assert published_method(load_space("toy")) == "Toy-Shallow"
    fixed = {"epochs": plans.EPOCHS, "warmup_epochs": 1}
    documents = {"toy": {**load_space("toy").document, "fixed": fixed}}
    monkeypatch.setattr(plans, "SPACES", plans.SPACES | documents)
    plan = plans.make_plan(spaces=("toy", "linear"), num_trials=1)
    record = plans.make_record(plan, tmp_path)
    for study in plan.studies:
        plans.run_trial(record, study.name)
    assert [study.has_prompts for study in collect(plan, record).studies] == [True, False]
    monkeypatch.setitem(test_bundle.CONFIGS, "toy", {"count": 3})
    path, trial = test_bundle.write_bundle("toy", write_task(tmp_path / "colours"), tmp_path)
    images = trial.load_pixels("train").images.numpy()
    page = explain(load_bundle(path), images[:1], ["red"], images)
    assert "Loudness" in page and "How much it looks at each prompt" in page


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of an own method, started where its file lies; workers are other processes."""
    tmp = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp / "state"))
        suite = write_suite(tmp / "suite", ("colours_a",))
        small = ("--backbone", "vit_quickstart", "--trials", "2", "--epochs", "2", "--slots", "1")
        method = write_toy(tmp / "mine")
        run("sweep", suite, "--method", method, *small, "--out", tmp / "sweep", tmp=tmp)
    return tmp


@pytest.mark.ray
@pytest.mark.slow
def test_an_own_method_is_swept_and_its_source_kept(swept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(swept / "state"))  # of the user who named it
    plan = load_plan(swept / "sweep")
    assert "\n".join(plan.own_methods["toy"].source) == TOY
    assert plan.versions["method toy"] == plan.own_methods["toy"].sha256[:12]
    trials = open_record(plan, swept / "sweep").all_trials()
    assert [trial.state for trial in trials] == ["complete"] * 2
    shutil.rmtree(swept / "mine")
    assert "colours_a" in run("report", swept / "sweep", tmp=swept)
    model = load_bundle(swept / "sweep" / "best" / "colours_a.yaml")
    assert model.model.method.title == "Toy"
    card = (swept / "sweep" / "best" / "colours_a.md").read_text()
    assert 'load_bundle("colours_a.yaml", methods=["toy.py"])' in card
    assert plan.own_methods["toy"].sha256[:12] in card


@pytest.mark.ray
@pytest.mark.slow
def test_code_that_came_with_a_sweep_or_bundle_is_not_run_until_it_is_named(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trace = tmp_path / "trace"
    monkeypatch.setenv("TRACE", str(trace))
    bundle = swept / "sweep" / "best" / "colours_a.yaml"
    for ask in (lambda: load_plan(swept / "sweep"), lambda: load_bundle(bundle)):
        with pytest.raises(ValueError, match=r"the method 'toy' does not come .* only if you name"):
            ask()
    assert not trace.exists()
    mine = write_toy(tmp_path / "mine")
    changed = tmp_path / "changed" / "toy.py"
    changed.parent.mkdir()
    changed.write_text(TOY + "# changed\n")
    with pytest.raises(ValueError, match=r"was made with another 'toy' than .*changed/toy.py"):
        load_bundle(bundle, methods=[changed])
    monkeypatch.setenv(VARIABLE, str(mine))
    assert load_plan(swept / "sweep").own_methods.keys() == {"toy"}
    assert load_bundle(bundle, methods=[mine]).model.method.title == "Toy"
    assert trace.read_text() == "run\n" * 2  # the changed one, and ours


@pytest.mark.parametrize(
    ("name", "text", "space", "told"),
    [
        ("toy.py", "x = 1\n", SPACE, "holds no method; one file is one frozen dataclass"),
        ("toy.py", TOY + TOY.replace("class Toy(", "class Two("), SPACE, "holds 2 methods"),
        ("toy.py", TOY.replace("frozen=True, ", ""), SPACE, "Toy must be a frozen dataclass"),
        ("toy.py", TOY.replace("count: int = 2", "count: int"), SPACE, "every field needs a def"),
        ("toy.py", TOY.replace('title: ClassVar[str] = "Toy"', ""), SPACE, "say its `title`"),
        ("toy.py", "import nowhere\n", SPACE, "cannot be loaded: ModuleNotFoundError"),
        ("toy.py", "def f(:\n", SPACE, "cannot be loaded: SyntaxError"),
        ("toy.py", TOY, None, "toy.yaml beside it"),
        ("toy.py", TOY, SPACE.replace("toy", "vpt").replace("count", "num_tokens"), "expected toy"),
        ("toy.py", TOY, SPACE.replace("count", "cuont"), "did you mean 'count'"),
        ("vpt.py", TOY, SPACE, "'vpt' is a method of this package"),
        ("my-toy.py", TOY, SPACE, "'my-toy' must be a name"),
        ("toy.py", None, None, "no such file"),
    ],
)
def test_a_file_that_is_no_method_with_a_space_is_refused_in_one_line(
    name: str, text: str | None, space: str | None, told: str, tmp_path: Path
):
    if text is not None:
        (tmp_path / name).write_text(text)
    if space is not None:
        (tmp_path / name).with_suffix(".yaml").write_text(space)
    before = dict(METHODS)
    asked = ["sweep", "quickstart", "--method", str(tmp_path / name), "--dry-run"]
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, ValueError) and told in str(refused)
    assert "\n" not in str(refused) and name.partition(".")[0] in str(refused)
    assert before == METHODS or (name == "toy.py" and text == TOY)


def test_a_package_whose_method_fails_costs_only_itself(tmp_path: Path, caplog):
    point = metadata.EntryPoint(name="gone", value="nowhere:Gone", group=own_methods.ENTRY_POINTS)
    taken = metadata.EntryPoint(name="vpt", value="toy:Toy", group=own_methods.ENTRY_POINTS)
    before = dict(METHODS)
    own_methods._use_installed([point, taken])
    assert before == METHODS
    assert "'gone' of nowhere:Gone is not used: ModuleNotFoundError" in caplog.text
    assert "there is a method 'vpt' already" in caplog.text


def test_a_sweep_goes_on_with_the_method_that_was_planned(tmp_path: Path, caplog):
    """The user works on in the file; the plan has the source, which was named once."""
    file = write_toy(tmp_path / "mine")
    planned = use_named(file)
    document = plan_document(plans.make_plan())
    document["own_methods"] = {"toy": vars(planned) | {"source": list(planned.source)}}
    file.write_text(TOY.replace("count: int = 2", "count: int = 7"))
    use_named(file)
    assert METHODS["toy"]().length == 7
    plan = read_plan(document, source="sweep.yaml")
    assert METHODS["toy"]().length == 2
    warn_of_changed_files(plan.own_methods)
    assert "toy.py changed since this sweep was planned" in caplog.text
    document["own_methods"]["toy"]["source"][0] += "# another"
    with pytest.raises(ValueError, match=r"own_methods\.toy: sha256 is not that of the source"):
        read_plan(document, source="sweep.yaml")


@pytest.mark.slow
def test_each_sweep_of_a_process_trains_with_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a notebook: a sweep is planned, the file is edited, and another sweep is planned."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    suite, file = write_suite(tmp_path / "suite", ("colours_a",)), write_toy(tmp_path / "mine")
    sweeps = []
    for added in (0, 5):
        file.write_text(TOY.replace("(1, self.count,", f"(1, self.count + {added},"))
        sweeps.append(
            Sweep.plan(
                suite,
                methods=[file],
                backbone="vit_quickstart",
                trials=1,
                epochs=1,
                precision="fp32",
                out=tmp_path / f"sweep{added}",
            )
        )
    trained = []
    for sweep in sweeps:
        sweep.run(engine="local")
        trial = sweep.best("colours_a")
        trained.append(trial.facts["num_tuned_parameters"] - 96 * trial.config["count"])
    assert trained[1] - trained[0] == 5 * 96
    assert not sweeps[0].run(engine="local").num_failed  # nor is that other software

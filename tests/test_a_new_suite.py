"""A suite is added by one object and its name in the list: this one ships in no file of ours."""

import io
import zipfile
from pathlib import Path

import pytest
from hub_stand_in import running_hub
from plans import make_plan
from suites import write_task

from orchestrator.data.archives import ZipOfTasks
from orchestrator.data.fetch import fetch_task
from orchestrator.data.published_suite import Archive, OfficialTask, PublishedSuite, compare
from orchestrator.data.reading import Problems
from orchestrator.data.suites import PUBLISHED_SUITES, load_suite, published_tasks
from orchestrator.data.task import DataError, Example, Split, Task
from orchestrator.report.averages import expected_tasks
from orchestrator.report.published import is_official

LISTS = {"train": "seen.csv", "val": "unseen.csv", "test": "later.csv"}
FOUR = {"train": 4, "val": 4, "test": 4}
TASKS = {
    name: OfficialTask(name=name, group="natural", num_classes=2, counts=FOUR, aliases=aliases)
    for name, aliases in (("clipart", ("clip",)), ("sketch", ()))
}


def read_domain(folder: Path) -> Task:
    """Lines of `label,path`, the other way round than in the layouts that ship."""
    found = Problems(folder.name)
    splits = {}
    for name, file in LISTS.items():
        lines = (folder / file).read_text().splitlines()
        examples = [
            Example(str(folder), path, int(label), number)
            for number, (label, path) in enumerate((line.split(",") for line in lines), start=1)
        ]
        splits[name] = Split(name=name, source=folder / file, examples=tuple(examples))
    official = DOMAINS.official_task(folder.name)
    assert official is not None
    compare(official, 2, splits, folder, found)
    return Task(
        name=official.name,
        group=official.group,
        num_classes=2,
        class_names=("0", "1"),
        root=folder,
        layout="domains",
        splits=splits,
        official=True,
        problems=found.all,
    )


DOMAINS = PublishedSuite(
    name="domains",
    folders=("domains", "DomainNet"),
    tasks=TASKS,
    lists=LISTS,
    read=read_domain,
    contents="<task>/{seen,unseen,later}.csv and the images they name",
    source=ZipOfTasks(
        archive=Archive(repository="someone/domains", name="domains.zip", tasks=tuple(TASKS))
    ),
    augment=False,
)


@pytest.fixture(autouse=True)
def named(monkeypatch, tmp_path):
    """The line in the list."""
    monkeypatch.setitem(PUBLISHED_SUITES, DOMAINS.name, DOMAINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_DATA", raising=False)


def write_domain(folder: Path, per_class: int = 2) -> Path:
    write_task(folder, num_classes=2, per_class=per_class)
    for ours, theirs in (("train800", "seen"), ("val200", "unseen"), ("test", "later")):
        lines = (folder / f"{ours}.txt").read_text().splitlines()
        turned = (f"{label},{path}\n" for path, label in (line.split() for line in lines))
        (folder / f"{theirs}.csv").write_text("".join(turned))
    for path in folder.glob("*.txt"):
        path.unlink()
    return folder


def test_it_is_found_by_its_name_and_its_tasks_by_any_of_theirs(tmp_path):
    write_domain(tmp_path / "data/DomainNet/Clip")
    suite = load_suite("domains")
    assert [(task.name, task.layout) for task in suite.tasks] == [("clipart", "domains")]
    assert suite.missing == ("sketch",)
    assert len(load_suite("domains", tasks=["CLIP"]).tasks) == 1
    with pytest.raises(DataError, match="did you mean 'domains'"):
        load_suite("domain")


def test_what_differs_from_the_published_task_is_said(tmp_path):
    write_domain(tmp_path / "data/domains/sketch", per_class=3)
    ((problem, *_),) = [task.problems for task in load_suite("domains").tasks]
    assert "6 images; the official list has 4" in problem.message


def test_it_is_fetched(tmp_path):
    source = write_domain(tmp_path / "source/Clip")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for path in sorted(source.rglob("*.*")):
            zipped.write(path, f"all/{path.relative_to(source.parent)}")
    ((name, folder),) = published_tasks(["clip"]).items()
    with running_hub() as hub:
        hub.files["someone/domains/domains.zip"] = file.getvalue()
        task = fetch_task(name, folder, progress=lambda *_: None, endpoint=hub.url)
    assert (task.name, task.problems) == ("clipart", ())
    assert task.root == Path("data/domains/clipart")


def test_the_report_knows_what_the_suite_holds():
    plan = make_plan(tasks=("clipart",))
    assert expected_tasks(plan) == {"clipart": "natural", "sketch": "natural"}
    assert not is_official(plan, "clipart"), "a plan of more classes is not about the same task"

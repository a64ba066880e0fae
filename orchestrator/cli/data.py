"""`orchestrator data`: which tasks are on this machine, and what is wrong with them."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.command import Command
from orchestrator.cli.fields import completed, option_like
from orchestrator.cli.options import DataRoot, Json, SplitFractions, SplitSeed
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.names import suite_names
from orchestrator.plan.request import SweepRequest
from orchestrator.support.counted import counted
from orchestrator.support.options import field_of, names_in

if TYPE_CHECKING:
    from orchestrator.data.suites import Suite
    from orchestrator.data.task import Problem, Task

app = typer.Typer(help="Tasks on this machine: list, check, fetch.", no_args_is_help=True)
console = Terminal()

Tasks = Annotated[
    list[str] | None, option_like(field_of(SweepRequest, "tasks"), help="Only these.")
]


@app.command(cls=Command)
def check(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="quickstart, vtab, fgvc, a folder of images, or a table of paths and labels.",
            autocompletion=completed(suite_names),
        ),
    ],
    data: DataRoot = None,
    tasks: Tasks = None,
    decode: Annotated[
        bool,
        typer.Option(
            help="Decode every image, too, which finds those that are broken.",
            rich_help_panel="Data",
        ),
    ] = True,
    split: SplitFractions = None,
    split_seed: SplitSeed = 0,
    as_json: Json = False,
) -> None:
    """Show how a folder is understood, and find what is wrong in it.

        orchestrator data check ./photos
        orchestrator data check vtab --tasks cifar,eurosat --no-decode

    Splits, classes and their images are listed as a sweep would use them. Corrupt images, labels
    out of range and images in both train and test are named with file and line. Exit code 2 if
    anything must be mended before a sweep.
    """
    from orchestrator.data.check import check_task
    from orchestrator.data.split import split_rule
    from orchestrator.data.suites import load_suite
    from orchestrator.data.summary import describe, facts, shown

    names = None if tasks is None else [name for text in tasks for name in names_in(text)]
    rule = split_rule(split_seed, split)
    loaded = load_suite(suite, data_root=data, tasks=names, rule=rule, strict=False)
    problems: list[Problem] = []
    with Terminal(stderr=True).status("") as status:
        for number, task in enumerate(loaded.tasks, start=1):
            status.update(Text(f"checking {task.name} ({number} of {len(loaded.tasks)})"))
            problems += check_task(task, decode=decode)
    if as_json:
        understood = [facts(task) for task in loaded.tasks]
        found = [_problem_row(problem) for problem in problems]
        typer.echo(json.dumps({"tasks": understood, "problems": found}, indent=2))
    else:
        for task in loaded.tasks:
            console.print(Text(f"{shown(task.name)}: {task.num_classes} classes"), soft_wrap=True)
            for line in describe(task):
                console.print(Text(f"  {line}"), soft_wrap=True)
        _print_problems(problems, loaded)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(2)


@app.command(cls=Command)
def prepare(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="vtab, fgvc, or names of their tasks.")
    ],
    data: DataRoot = None,
) -> None:
    """Fetch published tasks from the Hugging Face hub, or say which files to put where.

        orchestrator data prepare vtab
        orchestrator data prepare cifar eurosat --data ~/data

    Goes on where it was interrupted. Exit code 1 if a copy differs from the published task.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from orchestrator.data.fetch import fetch_task
    from orchestrator.data.suites import published_tasks

    differing = 0
    wanted = published_tasks(names, data_root=data)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        console=Terminal(stderr=True),
        transient=True,
    ) as bars:
        bar = bars.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total)

        for name, folder in wanted.items():
            task = fetch_task(name, folder, progress=show)
            differing += bool(task.problems)
            console.print(
                Text(f"{name}: {'differs' if task.problems else 'complete'} ({task.root})")
            )
            for problem in task.problems:
                console.print(Text(f"  {problem}"), soft_wrap=True)
    if differing:
        raise typer.Exit(1)


@app.command("list", cls=Command)
def list_tasks(
    suite: Annotated[
        str | None,
        typer.Argument(
            metavar="SUITE",
            help="A suite, or a folder of images. Without it: every suite that is known by name.",
            autocompletion=completed(suite_names),
        ),
    ] = None,
    data: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Show which tasks are on this machine, and whether they are complete.

        orchestrator data list
        orchestrator data list ./photos

    Lists are read and no image is decoded. `differs`: usable, but not the images of the published
    task.
    """
    from orchestrator.data.suites import PUBLISHED_SUITES, QUICKSTART, load_suite

    rows: list[dict[str, Any]] = []
    absent: list[dict[str, str]] = []
    for name in [suite] if suite else [QUICKSTART, *PUBLISHED_SUITES]:
        try:
            loaded = load_suite(name, data_root=data, strict=False)
        except ValueError as error:
            if suite:
                raise
            absent.append({"suite": name, "state": "not found"})
            if not as_json:
                console.print(Text(f"{error}\n"))
            continue
        rows += [_task_row(task, loaded) for task in loaded.tasks]
        rows += [{"suite": name, "task": task, "state": "not found"} for task in loaded.missing]
    if as_json:
        typer.echo(json.dumps(rows + absent, indent=2))
        return
    for name in dict.fromkeys(row["suite"] for row in rows):
        _print_tasks(name, [row for row in rows if row["suite"] == name])


def _print_tasks(suite: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=Text(suite), title_justify="left", box=None, pad_edge=False)
    columns = ("task", "group", "classes", "train", "val", "test", "state")
    for column in columns:
        is_number = column in ("classes", "train", "val", "test")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(row.get(column, ""))) for column in columns))
    console.print(table)
    for note in (note for row in rows for note in row.get("notes", [])):
        console.print(Text(note), soft_wrap=True)
    console.print()


def _problem_row(problem: "Problem") -> dict[str, object]:
    return {
        "task": problem.task,
        "split": problem.split,
        "file": str(problem.file),
        "line": problem.line,
        "severity": problem.severity,
        "message": problem.message,
    }


def _print_problems(problems: list["Problem"], suite: "Suite") -> None:
    by_severity = {
        severity: [problem for problem in problems if problem.severity == severity]
        for severity in ("error", "warning")
    }
    for severity, style in (("error", "bold red"), ("warning", "yellow")):
        for problem in by_severity[severity]:
            # Lines and not a table: a path must stay in one piece to be clicked or copied.
            console.print(Text.assemble((severity, style), f"  {problem}"), soft_wrap=True)
    num_images = sum(len(task.splits[name]) for task in suite.tasks for name in _disjoint(task))
    console.print(
        f"{counted(len(suite.tasks), 'task')}, {counted(num_images, 'image')}: "
        f"{counted(len(by_severity['error']), 'error')}, "
        f"{counted(len(by_severity['warning']), 'warning')}"
    )


def _disjoint(task: "Task") -> list[str]:
    return [name for name in ("train", "val", "test") if name in task.splits]


def _task_row(task: "Task", suite: "Suite") -> dict[str, Any]:
    is_whole = not task.official or not task.problems
    state = "faulty" if task.errors() else "complete" if is_whole else "differs"
    sizes = {name: len(task.splits[name]) for name in _disjoint(task)}
    return {
        "suite": suite.name,
        "task": task.name,
        "group": task.group,
        "classes": task.num_classes,
        **sizes,
        "split_rule": task.split_rule,
        "state": state,
        "notes": [str(problem) for problem in task.problems],
        "root": str(task.root),
    }

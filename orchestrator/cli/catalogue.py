"""`methods`, `spaces`: what can be searched."""

import json
import math
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.command import Command
from orchestrator.cli.fields import completed
from orchestrator.cli.options import Json
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.names import method_names, space_names
from orchestrator.support.counted import counted
from orchestrator.support.shown_values import config_text

console = Terminal()

spaces = typer.Typer(help="Search spaces that come with the package.", no_args_is_help=True)


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD",
            help="One of them, or the file of a method of your own. Without it: all.",
            autocompletion=completed(method_names),
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE...",
            help="Hyper-parameters of this method, to count what it trains with them.",
        ),
    ] = None,
    backbones: Annotated[
        bool,
        typer.Option(
            "--backbones",
            help="List what can be tuned instead: what --backbone takes. With a text, the names "
            "that have it.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the methods: paper, hyper-parameters, and what they train on ViT-B/16.

        orchestrator methods
        orchestrator methods vpt num_tokens=100
        orchestrator methods my_method.py
        orchestrator methods --backbones
        orchestrator methods --backbones dinov2

    Parameters are counted without the head. What is searched of a method is its search space:
    `orchestrator spaces list`.
    """
    if backbones:
        from orchestrator.cli.backbones import show_backbones

        show_backbones(" ".join([method or "", *(values or [])]).strip(), as_json=as_json)
        return
    from methods import METHODS
    from orchestrator.support.did_you_mean import unknown
    from orchestrator.support.yaml_io import parse_yaml
    from orchestrator.training.config import hyperparameters

    if method is not None and method.endswith(".py"):
        from orchestrator.training.named_methods import use_named

        method = use_named(method).name
    if method is not None and method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    config = {}
    for value in values or []:
        name, equals, text = value.partition("=")
        if not equals:
            raise ValueError(f"{value!r}: expected name=value, for example num_tokens=100")
        if method is not None and name not in hyperparameters(method):
            raise ValueError(unknown(f"{method} hyper-parameter", name, hyperparameters(method)))
        config[name] = parse_yaml(text, source=value)
    found = [_about(name, config) for name in ([method] if method else METHODS)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for row in found:
        name = Text(row["method"], style="bold")
        console.print(Text.assemble(name, f"  {row['title']}"), soft_wrap=True)
        console.print(f"  {row['paper']}", soft_wrap=True)
        if row["hyperparameters"]:
            values = [f"{k}={v}" for k, v in row["hyperparameters"].items()]
            console.say(f"  {', '.join(values)}")
        console.print(
            f"  trains {row['trained_parameters']:,} parameters of ViT-B/16 and a head: "
            f"{row['percent_of_backbone']:.3f} % of {_backbone_parameters():,}"
        )


def _about(method: str, config: dict[str, Any]) -> dict[str, Any]:
    """A row of `methods --json`; only values that are not the defaults must be computed."""
    from methods.catalogue import declaration

    said = declaration(method)
    values, trained = said.defaults, said.trained_parameters
    if config or trained is None:
        values, trained = _counted(method, config)
    return {
        "method": method,
        "title": said.title,
        "paper": said.paper,
        "hyperparameters": values,
        "trained_parameters": trained,
        "percent_of_backbone": 100 * trained / _backbone_parameters(),
    }


def _counted(method: str, config: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The hyper-parameters with these values, and what they train on the reference backbone."""
    from dataclasses import asdict

    from methods.size import num_trained_parameters, reference_vit
    from orchestrator.training.config import build

    built, _ = build(method, config, source=method)
    return asdict(built), num_trained_parameters(reference_vit(), built)


def _backbone_parameters() -> int:
    from methods.catalogue import reference

    return reference()[1]


@spaces.command("list", cls=Command)
def list_spaces(as_json: Json = False) -> None:
    """List the search spaces: what a sweep takes as --method.

    orchestrator spaces list
    """
    from orchestrator.plan.space import load_space, outline_space, shipped_spaces

    found = []
    for name in shipped_spaces():
        space = load_space(name, parse=outline_space)
        found.append(
            {
                "space": name,
                "method": space.method,
                "searched": [d.name for d in space.dimensions],
                "configurations": _count(space.num_combinations()),
            }
        )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("space", "method", "configurations", "searched", box=None, pad_edge=False)
    for row in found:
        searched = ", ".join(row["searched"])
        table.add_row(row["space"], row["method"], str(row["configurations"]), searched)
    console.print(table)


@spaces.command("show", cls=Command)
def show_space(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name from `orchestrator spaces list`, a .yaml file of yours, or the .py file "
            "of a method beside its space.",
            autocompletion=completed(space_names),
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show what a search space varies, between which values, and what it holds fixed.

    orchestrator spaces show vpt_deep
    orchestrator spaces show my_vpt.yaml
    """
    from orchestrator.plan.space import load_space, outline_space

    space = load_space(name, parse=outline_space)
    if as_json:
        typer.echo(json.dumps(space.document, indent=2))
        return
    table = Table("hyper-parameter", "values", "when", box=None, pad_edge=False)
    for key, value in space.fixed.items():
        table.add_row(key, str(value), "always (fixed)")
    for dimension in space.dimensions:
        line = space.document["search"][dimension.name]
        values = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("when", "choices"))
        if "choices" in line:
            values = ", ".join(filter(None, [*map(str, line["choices"]), values]))
        when = ", ".join(f"{k} = {' or '.join(map(str, v))}" for k, v in dimension.when.items())
        table.add_row(dimension.name, values, when or "always")
    number = _count(space.num_combinations())
    many = counted(number, "configuration") if isinstance(number, int) else "a continuous space"
    console.print(f"{space.name}: method {space.method}, {many}")
    console.print(table)
    for config in space.start:
        console.say(f"starts with {config_text(config)}")


def _count(number: float) -> int | str:
    return "continuous" if math.isinf(number) else int(number)

"""How the help of a command looks: what it is for, what is typically typed, options by subject.

Typer's own table has a column for every spelling of an option, and leaves 20 of 80 characters for
what it does.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperOption

from orchestrator.cli.terminal import Terminal
from orchestrator.plan.request import SweepRequest
from orchestrator.support.options import Group, fields_of, range_text

WIDEST = 100
NAME_WIDTH = 27
"""Characters for an option with its value; a longer one has a line of its own."""

METAVARS: Mapping[Any, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
"""What stands behind the flag of an option, where it says nothing itself."""


PAIRED = [field.flag for field in fields_of(SweepRequest) if field.option.pairs]
"""Flags behind which several NAME=VALUE may stand."""
_PAIR = re.compile(r"[A-Za-z_]\w*=.+", re.DOTALL)


class Command(TyperCommand):
    """A command whose docstring has examples in a paragraph of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_each_with_its_flag(args)))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Terminal()
        console.width = min(console.width, WIDEST)
        console.print()
        console.print(Text(f" Usage: {ctx.command_path} {_usage(self)}", style="bold"))
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            console.print()
            if _is_examples(paragraph):  # to be copied: no line is broken
                console.print(_examples(paragraph), soft_wrap=True)
            else:
                console.print(Padding(" ".join(paragraph.split()), (0, 1)))
        console.print()
        for title, parameters in _panels(self, ctx):
            console.print(Panel(_table(parameters, ctx), title=title, title_align="left"))


def _each_with_its_flag(words: list[str]) -> Iterator[str]:
    """`--flag A=1 B=2` as `--flag A=1 --flag B=2`, which is what the parser knows."""
    flag, is_first = None, False
    for word in words:
        if word.startswith("-"):
            flag, is_first = (word, True) if word in PAIRED else (None, False)
        elif flag is not None and not is_first:
            if _PAIR.fullmatch(word):
                yield flag
            else:
                flag = None
        else:
            is_first = False
        yield word


def _usage(command: TyperCommand) -> str:
    words = ["[OPTIONS]"]
    for one in command.params:
        if isinstance(one, TyperArgument):
            name = _argument_name(one)
            words.append(name if one.required else f"[{name}]")
    return " ".join(words)


def _argument_name(argument: TyperArgument) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs != 1 and not name.endswith("...") else name


def _is_examples(paragraph: str) -> bool:
    return all(line.strip().startswith("orchestrator ") for line in paragraph.splitlines())


def _examples(text: str) -> Text:
    return Text("\n".join(f"   {line.strip()}" for line in text.splitlines()), style="cyan")


def _panels(command: TyperCommand, ctx: Any) -> Iterator[tuple[str, list[Any]]]:
    by_title: dict[str, list[Any]] = {}
    parameters: list[Any] = command.params  # `--help` itself needs no line where it is shown
    for one in parameters:
        title = "Arguments" if isinstance(one, TyperArgument) else one.rich_help_panel or "Options"
        if not one.hidden:
            by_title.setdefault(title, []).append(one)
    for title in ("Arguments", *get_args(Group)):
        if title in by_title:
            yield title, by_title.pop(title)
    yield from by_title.items()


def _table(parameters: list[Any], ctx: Any) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, expand=True, padding=(0, 1))
    table.add_column(width=NAME_WIDTH, no_wrap=True, overflow="ignore")
    table.add_column(ratio=1)
    for one in parameters:
        name, about = Text(_name(one), style="bold cyan"), _about(one, ctx)
        if len(name) <= NAME_WIDTH:
            table.add_row(name, about)
        else:
            table.add_row(name, "")
            table.add_row("", about)
    return table


def _name(one: Any) -> str:
    if isinstance(one, TyperArgument):
        return _argument_name(one)
    short = [f"{flag}, " for flag in one.opts if not flag.startswith("--")]
    flags = [flag for flag in one.opts if flag.startswith("--")]
    negative = [flag.removeprefix("--no-") for flag in one.secondary_opts]
    if one.is_flag:
        return "".join(short) + (f"--[no-]{negative[0]}" if negative else flags[0])
    kind = one.type_descriptor
    word = one.metavar or ("NAME" if kind.choices else METAVARS.get(kind.annotation, "TEXT"))
    return f"{''.join(short)}{flags[0]} {word}"


def _about(one: Any, ctx: Any) -> Text:
    """What it does, and in brackets what may be given and what holds without it."""
    limits = one.show_default if isinstance(one.show_default, str) else _limits(one, ctx)
    said = Text(one.help or "")
    return said.append(f" [{limits}]", style="dim") if limits else said


def _limits(one: Any, ctx: Any) -> str:
    parts = []
    if one.type_descriptor.choices:
        words = (getattr(choice, "value", choice) for choice in one.type_descriptor.choices)
        parts.append(" | ".join(map(str, words)))
    elif numbers := range_text(one.min, one.max):
        parts.append(numbers)
    if isinstance(one, TyperArgument) and one.required:
        return "; ".join(parts)
    default = one.get_default(ctx, call=False)
    if isinstance(default, bool):
        if isinstance(one, TyperOption) and one.secondary_opts:
            parts.append(f"default: {'on' if default else 'off'}")
    elif default is not None:
        parts.append(f"default: {getattr(default, 'value', default)}")
    if one.envvar:
        parts.append(f"environment: {one.envvar}")
    return "; ".join(parts)

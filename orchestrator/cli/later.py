"""Commands that are imported when they are run, so that none pays for what another needs.

The list of commands, `--help` at the top and a mistyped name need no more than names and a line.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from orchestrator.cli.command import Command


class Later(TyperCommand):
    """A command, or a group of some, at `module:attribute`."""

    def __init__(self, name: str, where: str, line: str) -> None:
        """`line` says what it is for in the list of commands; its own help says more."""
        super().__init__(name, help=line)
        self._name, self._where = name, where

    @cached_property
    def imported(self) -> Any:
        """The command itself."""
        module, _, attribute = self._where.partition(":")
        found = getattr(import_module(module), attribute)
        alone = typer.Typer(add_completion=False)
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=self._name)
        else:
            alone.command(self._name, cls=Command)(found)
        return get_group(alone).commands[self._name]

    def make_context(self, *given: Any, **named: Any) -> Any:
        return self.imported.make_context(*given, **named)


def group_of(commands: Sequence[Later]) -> type[TyperGroup]:
    """The `cls` of a `typer.Typer` that has these commands, in this order."""

    class Group(TyperGroup):
        def __init__(self, **about: Any) -> None:
            super().__init__(**about)
            for command in commands:
                self.add_command(command)

    return Group

"""The methods by name; each is imported when it is asked for, since it brings torch and timm."""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from methods.method import Method


class Registry(MutableMapping[str, "type[Method]"]):
    """A dictionary of classes. Names, their order and their number need no import."""

    def __init__(self, where: Mapping[str, str]) -> None:
        """`where`: for each name `module:Class`."""
        self._where = dict(where)
        self._entries: dict[str, type[Method] | str] = dict(where)

    @property
    def shipped(self) -> tuple[str, ...]:
        """Names of the methods that come with this package."""
        return tuple(self._where)

    def where(self, name: str) -> str:
        """The module of a method that comes with this package."""
        return self._where[name].partition(":")[0]

    def __getitem__(self, name: str) -> "type[Method]":
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, kind = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), kind)
        return entry

    def __setitem__(self, name: str, kind: "type[Method]") -> None:
        self._entries[name] = kind

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"METHODS({', '.join(self)})"

"""Every file of ours that outlives a version says its format: a whole number, `format: 2`.

A format changes when a reader of before would misread the file. The reader of now brings an older
file up to date, one step per format, and refuses a newer one by name: it may say something that we
do not know of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.support.document import shown

DISTRIBUTION = "visual-prompt-orchestrator"

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""From a document of one format to the same in the next.

It runs before the document is checked, so it must take whatever stands there, and leaves what it
does not understand to the check that follows.
"""


@dataclass(frozen=True)
class Format:
    """The format of one kind of document, and the way to it from each older one."""

    kind: str
    """What such a document is, with its article: `a sweep plan`."""
    migrations: tuple[Migration, ...] = ()
    """The first makes format 2 of format 1, the second 3 of 2, and so on."""

    @property
    def newest(self) -> int:
        """The format that is written."""
        return len(self.migrations) + 1

    def stamped(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with its format in front."""
        return {"format": self.newest, **document}

    def up_to_date(self, document: Any, *, source: str) -> dict[str, Any]:
        """A document of any format up to the newest, as the newest has it and without its number.

        ValueError names `source` where it is no such document, or one of a newer version.
        """
        if not isinstance(document, dict) or "format" not in document:
            raise ValueError(f"{source}: is not {self.kind} (no `format` line)")
        document = dict(document)
        written = document.pop("format")
        if type(written) is not int or written < 1:
            raise ValueError(
                f"{source}: format: expected a whole number from 1 to {self.newest}, found "
                f"{shown(written)}"
            )
        if written > self.newest:
            raise ValueError(
                f"{source}: was written in format {shown(written)} by {_writer(document)}; this "
                f"version reads formats up to {self.newest}: install that version, or a later one"
            )
        for migrate in self.migrations[written - 1 :]:
            document = migrate(document)
        return document


def _writer(document: Mapping[str, Any]) -> str:
    """The version that wrote a document, as far as it says."""
    versions = document.get("versions")
    number = versions.get(DISTRIBUTION) if isinstance(versions, dict) else None
    known = isinstance(number, str)
    return f"{DISTRIBUTION} {shown(number)}" if known else f"a later version of {DISTRIBUTION}"

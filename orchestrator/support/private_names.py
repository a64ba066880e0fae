"""Names that a library does not promise: whether they are still what they were when it was tested.

What we rely on stands in a table for each library, from a dotted name to what is known of it:

    "package.module.Class.method": "(self, trial, *, force)"  names of its arguments
    "package.module.Class().kept": VALUE                      every instance has it
    "package.module.function(_option)": VALUE                 an option, perhaps of its **options
    "package.module.thing": VALUE                             is there
"""

import contextlib
import importlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

logger = logging.getLogger(__name__)

VALUE = ""
"""That it is there is all that is known of it."""


def differences(relied_on: Mapping[str, str]) -> list[str]:
    """What is missing or is called in another way, a sentence each."""
    return [
        f"{name} {problem}"
        for name, known in relied_on.items()
        if (problem := _problem(name, known)) is not None
    ]


def check(library: str, found: str, tested: str, relied_on: Mapping[str, str]) -> None:
    """Does what `refuse_another` does, but with a warning where the names are the same but the
    minor version is not."""
    refuse_another(library, found, tested, relied_on)
    if not is_minor(found, tested):
        logger.warning("tested with %s %s; found %s", library, tested, found)


def refuse_another(library: str, found: str, tested: str, relied_on: Mapping[str, str]) -> None:
    """ValueError, in one line, where a name is not what it is in the version that was tested."""
    if differ := differences(relied_on):
        more = f" (and {len(differ) - 1} more)" if differ[1:] else ""
        raise ValueError(
            f"{library} {found} cannot be used: tested with {library} {tested}, and now "
            f"{differ[0]}{more}; install '{library}=={tested}.*'"
        )


def is_minor(found: str, tested: str) -> bool:
    """Whether a version, such as 2.60.1, is one of the minor version 2.60."""
    return found.split(".")[:2] == tested.split(".")


@contextlib.contextmanager
def replaced(owner: Any, name: str, ours: Any) -> Iterator[None]:
    """While it is entered, a name of a library's module means what is ours."""
    theirs = getattr(owner, name)
    setattr(owner, name, ours)
    try:
        yield
    finally:
        setattr(owner, name, theirs)


def arguments(function: Any) -> str:
    """`(self, trial, *, force)`: names, without types and defaults."""
    names, keywords = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keywords:
            names.append("*")
        keywords = keywords or parameter.kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_POSITIONAL,
        )
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        names.append(stars.get(parameter.kind, "") + parameter.name)
    return f"({', '.join(names)})"


def _problem(name: str, known: str) -> str | None:
    owner, _, last = name.rpartition(".")
    try:
        if owner.endswith("()"):
            kept = _words(_found(owner.removesuffix("()")).__init__)
            return None if last in kept else "is not kept any more"
        if name.endswith(")"):
            function, _, option = name.removesuffix(")").rpartition("(")
            return None if option in _words(_found(function)) else "is not an option any more"
        thing = _found(name)
    except (ImportError, AttributeError):
        return "is not there"
    if known == VALUE:
        return None
    now = arguments(thing)
    return None if now == known else f"takes {now}, not {known}"


def _found(name: str) -> Any:
    """The module, or what is in it, of this dotted name."""
    module, rest = name, list[str]()
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            if not module:
                raise
            rest.insert(0, last)
    for part in rest:
        found = getattr(found, part)
    return found


def _words(function: Any) -> set[str]:
    """Every name and text that a function mentions: attributes that it sets, options it takes."""
    code: CodeType = inspect.unwrap(function).__code__
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return {*code.co_names, *code.co_varnames, *texts}

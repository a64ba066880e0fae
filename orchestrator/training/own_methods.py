"""Methods that do not come with this package: a user's file, or an installed package's entry point.

A sweep keeps their source, so that workers on other machines train with what was planned and nobody
loses the method of a result. Source that a plan or bundle brings along is run only where this user
has named it before (`training/named_methods.py`).
"""

import hashlib
import inspect
import linecache
import logging
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from methods import METHODS
from orchestrator.support.document import Entries, Name, Sha256
from orchestrator.support.regular_file import read_regular

if TYPE_CHECKING:
    from methods import Method

logger = logging.getLogger(__name__)

ENTRY_POINTS = "orchestrator.methods"
"""The group in which an installed package names its methods, each as `name = "module:Class"`."""
MOST_BYTES = 2**20
"""The largest source file of a method that is taken."""


@dataclass(frozen=True, kw_only=True)
class OwnMethod:
    """The source of a method, as a plan or bundle keeps it."""

    name: Annotated[str, Name()]
    origin: str
    """The file, or the package and its version, that it was read from: for people to read."""
    sha256: Annotated[str, Sha256()]
    source: Annotated[tuple[str, ...], Entries(1)]
    """Line by line."""

    def __post_init__(self) -> None:
        if self.sha256 != _sha256(self.source):
            raise ValueError("sha256 is not that of the source")


OWN: dict[str, OwnMethod] = {}
"""Those that are in METHODS now."""
INSTALLED_SPACES: dict[str, Path] = {}
"""Search spaces beside the methods of installed packages, by name."""


def read_own_method(path: Path) -> OwnMethod:
    """The method in a file, called as the file is. Nothing of it is run."""
    if not path.stem.isidentifier():
        raise ValueError(f"{path}: a method is called as its file, so {path.stem!r} must be a name")
    try:
        content = read_regular(path, most_bytes=MOST_BYTES)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    return _own_method(path.stem, content, origin=str(path.absolute()))


def _own_method(name: str, content: bytes, *, origin: str) -> OwnMethod:
    try:
        lines = tuple(content.decode().split("\n"))
    except UnicodeDecodeError:
        raise ValueError(f"{origin}: is not a Python file: it is no UTF-8 text") from None
    return OwnMethod(name=name, origin=origin, sha256=_sha256(lines), source=lines)


def use(own: OwnMethod) -> None:
    """Run the source, once in this process, and have METHODS know the method by its name."""
    known = OWN.get(own.name)
    if known is not None and known.sha256 == own.sha256:
        return
    if own.name in METHODS.shipped:
        raise ValueError(
            f"{own.origin}: {own.name!r} is a method of this package; give the file another name"
        )
    METHODS[own.name] = _only_method(_run(own), own.origin)
    OWN[own.name] = own


def own_methods_of(methods: Iterable[str]) -> dict[str, OwnMethod]:
    """Those of these methods that are not of this package, as they are in use."""
    return {name: OWN[name] for name in methods if name in OWN}


def planned_methods(planned: Mapping[str, OwnMethod]) -> dict[str, OwnMethod]:
    """Those of a plan or bundle that was read here, in use again; of packages as installed now.

    In one process, as in a notebook, another plan may have brought another source meanwhile.
    """
    for name, own in planned.items():
        if name not in INSTALLED:
            use(own)
    return own_methods_of(planned)


def _run(own: OwnMethod) -> types.ModuleType:
    name = f"own_method_{own.sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = own.origin
    text = "\n".join(own.source)
    # So that tracebacks, debuggers and dataclasses find the lines, also where there is no file.
    linecache.cache[own.origin] = (len(text), None, text.splitlines(True), own.origin)
    sys.modules[name] = module
    try:
        exec(compile(text, own.origin, "exec"), module.__dict__)  # noqa: S102  # named by the user
    except Exception as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            reason += " (a method is one file; beside it only installed packages can be imported)"
        raise ValueError(f"{own.origin}: cannot be loaded: {reason}") from error
    return module


def _only_method(module: types.ModuleType, origin: str) -> "type[Method]":
    from methods import Method

    found = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__ and Method in one.__mro__
    ]
    kinds = [one for one in found if "__dataclass_fields__" in vars(one)]
    if len(kinds) != 1:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{origin}: "
            + (f"holds {len(kinds)} methods ({names}); " if kinds else "holds no method; ")
            + "one file is one frozen dataclass that inherits `methods.Method`"
        )
    _check(kinds[0], origin)
    return kinds[0]


def _check(kind: "type[Method]", origin: str) -> None:
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"{origin}: {kind.__name__} must be a frozen dataclass")
    for name in ("title", "paper"):
        if not isinstance(getattr(kind, name, None), str):
            raise ValueError(f"{origin}: {kind.__name__} must say its `{name}`, a ClassVar[str]")
    try:
        kind()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin}: every field needs a default that works: {error}") from error


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _use_installed(points: Iterable[metadata.EntryPoint]) -> None:
    """Have METHODS know the methods of installed packages; one that fails costs only itself."""
    for point in points:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            if point.name in METHODS:
                raise ValueError(f"there is a method {point.name!r} already")
            kind = point.load()
            _check(kind, package)
            file = Path(inspect.getfile(kind))
            own = _own_method(point.name, file.read_bytes(), origin=package)
        except Exception as error:
            logger.warning(
                "method %r of %s is not used: %s: %s",
                point.name,
                package,
                type(error).__name__,
                error,
            )
            continue
        METHODS[point.name] = kind
        OWN[point.name] = own
        space = file.with_name(f"{point.name}.yaml")
        if space.exists():
            INSTALLED_SPACES[point.name] = space


_use_installed(metadata.entry_points(group=ENTRY_POINTS))
INSTALLED: Mapping[str, OwnMethod] = dict(OWN)
"""Those of installed packages."""

"""Whose code may be run: methods are Python, and plans and bundles travel.

A file that the user names is run, and its sha256 is remembered on this machine, so that `resume`,
`report` and `load_bundle` know the method of their sweep again. Any other source is refused.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.training.own_methods import (
    INSTALLED,
    OwnMethod,
    read_own_method,
    use,
)

logger = logging.getLogger(__name__)

VARIABLE = "ORCHESTRATOR_METHODS"
"""Files of methods for every command, with the separator of PATH between them."""


def use_named(path: str | Path) -> OwnMethod:
    """The method in a file that the user named; ValueError says what is wrong with it."""
    own = read_own_method(Path(path).expanduser())
    if own.name in INSTALLED and INSTALLED[own.name].sha256 != own.sha256:
        raise ValueError(
            f"{path}: {own.name!r} is a method of {INSTALLED[own.name].origin}, which is "
            "installed; give the file another name"
        )
    use(own)
    _remember(own)
    return own


def use_planned(
    methods: Mapping[str, OwnMethod], *, source: str, named: Iterable[OwnMethod] = ()
) -> None:
    """The methods that a plan or bundle brings along, as it was made with them.

    `named` are those that the user named for this command. ValueError where a method was never
    named on this machine, and nothing of it is run; or where the file that is named is another.
    """
    given = {own.name: own for own in [*map(use_named, _in_environment()), *named]}
    for name, own in methods.items():
        installed, here = INSTALLED.get(name), given.get(name)
        if installed is not None:
            if installed != own:
                told = (source, name, own.origin, installed.origin)
                logger.warning("%s: method %r was of %s, now of %s", *told)
        elif here is not None and here.sha256 != own.sha256:
            raise ValueError(
                f"{source}: was made with another {name!r} than {here.origin} now holds (sha256 "
                f"{own.sha256[:12]}..., now {here.sha256[:12]}...); its source stands in it"
            )
        elif here is not None or _is_remembered(own):
            use(own)
        else:
            raise ValueError(
                f"{source}: the method {name!r} does not come with this package, and its code is "
                f"run only if you name it: {VARIABLE}=FILE, where FILE is {name}.py "
                f"with the sha256 {own.sha256[:12]}... (it was of {Path(own.origin).name}, which "
                "is not installed or named here)"
            )


def warn_of_changed_files(methods: Mapping[str, OwnMethod]) -> None:
    """Say where the file of a method is another one now: a sweep keeps to what was planned."""
    for name, own in methods.items():
        if name in INSTALLED:
            continue  # of another version: that is told with the versions
        try:
            now = read_own_method(Path(own.origin))
        except ValueError:
            continue  # the file is gone, or was of another machine
        if now.sha256 != own.sha256:
            logger.warning(
                "%s changed since this sweep was planned, which goes on with the method as it was; "
                "a changed method is another sweep",
                own.origin,
            )


def _in_environment() -> Iterable[str]:
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "visual-prompt-orchestrator" / "named_methods"


def _is_remembered(own: OwnMethod) -> bool:
    return (_folder() / own.sha256).is_file()


def _remember(own: OwnMethod) -> None:
    try:
        _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        (_folder() / own.sha256).touch()
    except OSError as error:
        logger.warning(
            "%s: that %s was named cannot be remembered (%s): later commands need %s=%s",
            _folder(),
            own.name,
            error.strerror,
            VARIABLE,
            own.origin,
        )

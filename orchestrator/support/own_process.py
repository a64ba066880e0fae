"""What our processes need before anything heavy is imported: their own packages, patient threads.

Ours are the command, `python -m orchestrator...` and the workers of Ray. In a process of somebody
else, who imports `orchestrator` as a library, nothing is changed.
"""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Where the packages of this distribution lie."""

_PACKAGES = ("methods", "search_spaces")
"""Beside `orchestrator`, under names that others use as well."""


def prepare() -> None:
    """See that this process finds our packages; ImportError where another's are in their place."""
    if _is_ours():
        _leave_the_current_folder()
        if any(_place(name) != ROOT / name for name in _PACKAGES):
            sys.path.insert(0, str(ROOT))
        # Threads that spin while they wait take the processor from those that they wait for, where
        # there are more threads than processors. It is read when torch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # What we start with `python -m` shall not look into the folder that it is started in.
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    for name in _PACKAGES:
        place = _place(name)
        if place is not None and place != ROOT / name:
            raise ImportError(
                f"{place} hides the package '{name}' that visual-prompt-orchestrator needs: rename "
                "it, or run your program from another folder"
            )


def _is_ours() -> bool:
    program = Path(sys.argv[0] if sys.argv else "").name
    if program == "-m":  # what Python says while it still looks for the module
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else ""
        return module.partition(".")[0] == "orchestrator"
    return program in ("orchestrator", "default_worker.py")


def _leave_the_current_folder() -> None:
    """Take it off the path, whoever put it there: `-m`, or an empty part of PYTHONPATH."""
    with suppress(FileNotFoundError):  # it may be gone
        here = Path.cwd()
        asked = os.environ.get("PYTHONPATH", "")
        kept = [part for part in asked.split(os.pathsep) if part and Path(part).resolve() != here]
        dropped = len(kept) < len(asked.split(os.pathsep))
        if (asked and dropped) or (sys.argv[0] == "-m" and not sys.flags.safe_path):
            sys.path[:] = [part for part in sys.path if Path(part).resolve() != here]
        # For the processes that we start, in whatever folder.
        if kept:
            os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in kept)
        else:
            os.environ.pop("PYTHONPATH", None)


def _place(name: str) -> Path | None:
    """Where the package of this name is, or would be taken from; None: it is not found."""
    loaded = sys.modules.get(name)
    spec = PathFinder.find_spec(name) if loaded is None else loaded.__spec__
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or "").resolve()

"""From a name or a path to tasks: what `orchestrator sweep` takes as its first argument."""

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.data.cache import default_cache_root
from orchestrator.data.fgvc import FGVC
from orchestrator.data.form import Form
from orchestrator.data.forms import WITHOUT_CLASS_FOLDERS, form_of
from orchestrator.data.image_folder import image_folder_tasks, read_image_folder_task
from orchestrator.data.layout import NoImages, NoLabels, TaskFolder
from orchestrator.data.published_suite import OfficialTask, PublishedSuite
from orchestrator.data.split import DEFAULT_RULE, SplitRule
from orchestrator.data.table import KINDS
from orchestrator.data.table_files import why_unused
from orchestrator.data.task import DataError, Task, data_error
from orchestrator.data.vtab import VTAB
from orchestrator.data.walk import list_folder
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.locks import exclusive

logger = logging.getLogger(__name__)

QUICKSTART = "quickstart"
QUICKSTART_TASKS = ("digits", "generated_orientation", "generated_textures")
QUICKSTART_BACKBONE = "vit_quickstart"

PUBLISHED_SUITES = {suite.name: suite for suite in (VTAB, FGVC)}


Found = Path | TaskFolder | tuple[Form, Path]
"""Where a task lies: one with published lists, a folder of images, or one in another form."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    name: str
    tasks: tuple[Task, ...]
    root: Path | None
    default_backbone: str | None
    """For a suite that brings its own."""
    missing: tuple[str, ...] = ()
    """Official tasks that are not on this disk."""


def load_suite(
    name_or_path: str,
    *,
    data_root: Path | None = None,
    tasks: Sequence[str] | None = None,
    rule: SplitRule = DEFAULT_RULE,
    strict: bool = True,
) -> Suite:
    """Read a published suite by name, `quickstart`, or a path.

    A path may hold tasks, be one task in any of `FORMS`, or hold class folders with images.
    `data_root` is where the folders of published suites are, or what the paths in a table are
    relative to. `tasks` names those to
    keep, in their order, under any name that their folders have somewhere. `rule` is for
    splits that are ours. Unless `strict`, faults in the lists do not raise and stand in
    `Task.problems`.
    """
    default_backbone = None
    expected: tuple[str, ...] = ()
    if name_or_path == QUICKSTART:
        if wrong := [task for task in tasks or () if task not in QUICKSTART_TASKS]:
            raise DataError(f"{unknown('task', wrong[0], QUICKSTART_TASKS)} (of {QUICKSTART})")
        name, root = QUICKSTART, _written_quickstart()
        default_backbone = QUICKSTART_BACKBONE
    elif name_or_path in PUBLISHED_SUITES:
        published = PUBLISHED_SUITES[name_or_path]
        name, root = published.name, _find(published, data_root)
        expected = tuple(published.tasks)
    else:
        root = Path(name_or_path).expanduser()
        if not root.is_dir() and form_of(root) is None:
            names = (QUICKSTART, *PUBLISHED_SUITES)
            if os.sep in name_or_path or root.exists():
                raise DataError(
                    f"{root} is not a folder; a suite is one, a table of paths and labels "
                    f"({', '.join(KINDS)}), or {', '.join(names)}"
                )
            raise DataError(
                f"{unknown('suite', name_or_path, names)} (nor is there such a folder or table)"
            )
        name = Path(os.path.realpath(root)).name

    try:
        folders: dict[str, Found] = {**_listed_tasks(root)} if expected else _tasks_in(root, tasks)
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror}") from error
    if expected:
        folders = {task: folder for task, folder in folders.items() if task in expected}
    selected = _select(folders, tasks, expected, root)
    images = None if expected else data_root
    found = tuple(_read_task(folder, images, rule) for folder in selected.values())
    if strict and (errors := [error for task in found for error in task.errors()]):
        raise data_error(f"the tasks in {root} cannot be used as they are", errors)
    missing = tuple(task for task in expected if task not in folders)
    if missing and not tasks and strict:
        absent = ", ".join(missing)
        logger.warning("%s lacks %d of %d tasks: %s", root, len(missing), len(expected), absent)
    return Suite(
        name=name,
        tasks=found,
        root=root,
        default_backbone=default_backbone,
        missing=missing,
    )


def _tasks_in(root: Path, wanted: Sequence[str] | None) -> dict[str, Found]:
    """The tasks that a path is or holds, by name: as lists say, in another form, as folders."""
    if not _layout_of(root) and (form := form_of(root)):
        return {form.task_name(root): (form, root)}
    listed = _listed_tasks_below(root)
    formed = _formed_tasks_below(root)
    if twice := next((name for name in formed if name in listed), None):
        raise DataError(f"{listed[twice]} and {formed[twice][1]} are both task {twice!r}; keep one")
    folders: dict[str, Found] = {**listed, **formed}
    if not folders:
        return _image_folders(root, wanted)
    if root not in listed.values():
        folders |= _image_folders_beside(root, folders, unsplit=not listed)
    return folders


def _formed_tasks_below(root: Path) -> dict[str, tuple[Form, Path]]:
    """The tasks in a form of their own in a folder, or further down where nothing else is."""
    for _ in range(3):
        inner = _subfolders(root)
        found = {
            form.task_name(path): (form, path)
            for path in inner
            if not _layout_of(path) and (form := form_of(path))
        }
        if found or len(inner) != 1:
            return found
        (root,) = inner
    return {}


def _listed_tasks(root: Path) -> dict[str, Path]:
    """Where each task with lists lies in a folder, by name; no list is read."""
    if _layout_of(root):
        return {_task_name(root): root}
    groups = {name for suite in PUBLISHED_SUITES.values() for name in suite.group_folders}
    candidates = _subfolders(root)
    candidates += [
        task for group in candidates if group.name.lower() in groups for task in _subfolders(group)
    ]
    folders: dict[str, Path] = {}
    for folder in candidates:
        if _layout_of(folder):
            name = _task_name(folder)
            if name in folders:
                raise DataError(f"{folders[name]} and {folder} are both task {name!r}; keep one")
            folders[name] = folder
    return folders


def _listed_tasks_below(root: Path) -> dict[str, Path]:
    """The same, one or two folders further down where nothing else is on the way."""
    for _ in range(3):
        if found := _listed_tasks(root):
            return found
        inner = [path for path in _subfolders(root) if path.name[0] != "_"]
        if len(inner) != 1:
            break
        root = inner[0]
    return {}


def _image_folders(root: Path, wanted: Sequence[str] | None) -> dict[str, Found]:
    try:
        return {**image_folder_tasks(root, wanted=wanted)}
    except NoLabels as error:
        if found := _labelled_by_tables(root, error.folder, error.folder.parent):
            return found
        tables = [why for one in (error.folder, error.folder.parent) for why in why_unused(one)]
        raise DataError("; ".join([str(error), *tables])) from error
    except NoImages as error:
        if found := _labelled_by_tables(root):
            return found
        lists = [" or ".join(suite.lists.values()) for suite in PUBLISHED_SUITES.values()]
        raise DataError(
            f"{root} holds no task: neither folders with {', nor with '.join(lists)}, nor a "
            f"table of paths and labels, nor class folders with images; {error}"
        ) from error


def _labelled_by_tables(*folders: Path) -> dict[str, Found]:
    """The task of the first of these folders that holds tables of images and labels."""
    form = WITHOUT_CLASS_FOLDERS
    for folder in folders:
        if form.is_task(folder):
            return {form.task_name(folder): (form, folder)}
    return {}


def _image_folders_beside(
    root: Path, listed: Mapping[str, Found], *, unsplit: bool
) -> dict[str, TaskFolder]:
    """Image folders with splits of their own, beside tasks with lists.

    Those without, too, if `unsplit`: where there are lists, these may name their images.
    """
    found: dict[str, TaskFolder] = {}
    places = [place[1] if isinstance(place, tuple) else place for place in listed.values()]
    for folder in _subfolders(root):
        if any(isinstance(path, Path) and path.is_relative_to(folder) for path in places):
            continue
        try:
            tasks = image_folder_tasks(folder)
        except DataError:
            tasks = {}
        if unsplit and len(tasks) == 1:  # under the name that tells it from its neighbours
            (task,) = tasks.values()
            tasks = {folder.name: replace(task, name=folder.name)}
        if tasks and (unsplit or any(task.splits for task in tasks.values())):
            found |= {name: task for name, task in tasks.items() if name not in listed}
        elif number := list_folder(folder).num_images:
            logger.warning(
                "%s: is no task; its %d images are used only where a list names them",
                folder,
                number,
            )
    return found


def _layout_of(folder: Path) -> PublishedSuite | None:
    """The suite in whose layout the lists of a folder are, if there are any."""
    return next((suite for suite in PUBLISHED_SUITES.values() if suite.is_task(folder)), None)


def _task_name(folder: Path) -> str:
    name, layout = folder.absolute().name, _layout_of(folder)
    return (layout and layout.official_name(name)) or name


def _read_task(folder: Found, images: Path | None, rule: SplitRule) -> Task:
    if isinstance(folder, tuple):
        form, path = folder
        return form.read(path, images, rule)
    if isinstance(folder, TaskFolder):
        return read_image_folder_task(folder, rule=rule)
    layout = _layout_of(folder)
    if layout is None:
        raise DataError(f"{folder}: its lists went away while it was read")
    return layout.read(folder)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _select(
    folders: dict[str, Found],
    tasks: Sequence[str] | None,
    expected: Sequence[str],
    root: Path,
) -> dict[str, Found]:
    if tasks is None:
        return folders
    if not tasks:
        raise DataError("no task is named")
    selected: dict[str, Found] = {}
    for wanted in tasks:
        names = (wanted, *(suite.official_name(wanted) for suite in PUBLISHED_SUITES.values()))
        name = next((name for name in names if name in folders), None)
        if name is None:
            if absent := next((name for name in names if name in expected), None):
                there = ", ".join(folders)
                raise DataError(f"task {absent!r} is not in {root}; there are: {there}")
            raise DataError(f"{unknown('task', wanted, folders)} (in {root})")
        if name in selected:
            raise DataError(f"task {name!r} is named twice")
        selected[name] = folders[name]
    return selected


def published_tasks(names: Sequence[str], *, data_root: Path | None = None) -> dict[str, Path]:
    """Official tasks by suite or by any of their names, with where they lie or belong."""
    wanted: dict[str, Path] = {}
    for name in names:
        suite, tasks = _published(name)
        candidates = _candidates(suite, data_root)
        folder = _first_with_tasks(candidates, suite) or candidates[0]
        there = _listed_tasks(folder) if folder.is_dir() else {}
        wanted |= {task: there.get(task, folder / task) for task in tasks}
    return wanted


def official_task(name: str) -> OfficialTask | None:
    """The published task of this name, whatever its suite."""
    tasks = (suite.tasks.get(name) for suite in PUBLISHED_SUITES.values())
    return next((task for task in tasks if task is not None), None)


def _published(name: str) -> tuple[PublishedSuite, tuple[str, ...]]:
    if name in PUBLISHED_SUITES:
        return PUBLISHED_SUITES[name], tuple(PUBLISHED_SUITES[name].tasks)
    for suite in PUBLISHED_SUITES.values():
        if task := suite.official_name(name):
            return suite, (task,)
    known = [task for suite in PUBLISHED_SUITES.values() for task in suite.tasks]
    raise DataError(unknown("suite or task", name, [*PUBLISHED_SUITES, *known]))


def _candidates(published: PublishedSuite, data_root: Path | None) -> list[Path]:
    """Where a suite may lie, in the order of preference."""
    configured = os.environ.get("ORCHESTRATOR_DATA")
    if data_root is not None:
        places = [data_root]
    else:
        places = [*([Path(configured)] if configured else []), Path("data")]
    return [place.expanduser() / name for place in places for name in (*published.folders, ".")]


def _first_with_tasks(candidates: Sequence[Path], published: PublishedSuite) -> Path | None:
    for folder in candidates:
        if folder.is_dir() and _listed_tasks(folder).keys() & set(published.tasks):
            return folder
    return None


def _find(published: PublishedSuite, data_root: Path | None) -> Path:
    candidates = _candidates(published, data_root)
    if folder := _first_with_tasks(candidates, published):
        return folder
    looked = "\n".join(f"  {folder.absolute()}" for folder in candidates)
    raise DataError(
        f"suite {published.name!r} is not on this machine. Looked in:\n{looked}\n"
        f"Put {published.contents} into {published.folders[0]} below one of them, name another "
        f"data folder with --data or ORCHESTRATOR_DATA, or fetch it: `orchestrator data prepare "
        f"{published.name}`"
    )


def quickstart_folder() -> Path:
    """Where this version of the quickstart's images belongs."""
    spec = importlib.util.find_spec("orchestrator.quickstart.tasks")
    assert spec is not None and spec.origin is not None
    version = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]
    return default_cache_root() / f"quickstart-{version}"


def _written_quickstart() -> Path:
    """The tasks of the quickstart, written on first use and again when their source changed."""
    folder = quickstart_folder()
    root = folder.parent
    if folder.is_dir():
        return folder
    from orchestrator.quickstart.tasks import write_quickstart

    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / "quickstart.lock"):
            if not folder.is_dir():
                part = folder.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                write_quickstart(part)
                part.rename(folder)
    except OSError as error:
        raise DataError(
            f"the quickstart's images cannot be written to {root}: {error.strerror or error}; "
            "another folder can be named with ORCHESTRATOR_CACHE"
        ) from error
    return folder

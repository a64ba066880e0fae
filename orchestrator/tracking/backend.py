"""What a tracker must be able to do to show sweeps, and the types that it is told them in.

The thread that tells while a sweep runs (`tracker`), what it tells (`content`) and what brings a
tracker up to date afterwards (`reconcile`) know no more of one than stands here. To add one: write
a `Backend` and its `TrackerKind` in a folder beside `mlflow/`, and name it in `trackers.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from orchestrator.plan.plan import SweepPlan, TaskPlan

RunKey = tuple[str, str]
"""Study and number of a trial; for the run of a whole study the number is empty."""

Written = Literal["created", "updated", "unchanged", "deleted"]
"""What became of a run. Deleted: by a person in the tracker's pages, and left so."""


class TrackingError(Exception):
    """A tracker could not be read or written to; the message holds no credentials."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Metrics of one step."""

    step: int
    timestamp: int
    """Milliseconds since 1970, UTC."""
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """All that a run of ours should show."""

    key: RunKey
    name: str
    start: int
    """Milliseconds since 1970, UTC, as `end`."""
    end: int | None
    """When it ended; None: it is still running."""
    state: str
    """The state of the trial (running, complete, pruned or failed); of a study, running or
    complete."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    leading: str
    """The metric that every point has."""
    totals: Mapping[str, float]
    """Metrics that stand for the whole run."""
    afterwards: Sequence[Point] = ()
    """Metrics that came after the run's end; written where a tag changed with them."""
    note: str | None
    """Markdown, brought up to date until a person edits it; None: no note of ours."""
    passing_tags: Sequence[str] = ()
    """Beginnings of names: a tag with such a name that is not in `tags` is of an earlier state, and
    is to be removed."""

    @property
    def parent(self) -> RunKey | None:
        """The run of the study that the run of a trial stands below."""
        study, number = self.key
        return (study, "") if number else None


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Files that a run is to have."""

    kind: str
    """What they are; a run has one set of a kind."""
    digest: str
    """Of their content, or of what they are made from: if it was uploaded and is there, nothing is
    done."""
    sources: Mapping[str, Path | Callable[[], str]]
    """By name in the run, whose last part is that of the path; a text is made only if needed."""


class MissingFile(NamedTuple):
    """A file that was uploaded and is gone."""

    name: str
    bundle: str | None
    """`bundle_digest` of the bundle whose model it belongs to; None: it is no model's."""


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """What a tracker shows of a trial; of a study, where the number is empty."""

    study: str
    number: str
    state: str
    """The state, in the record's words, if the tracker's own status agrees."""
    val_accuracy: float | None
    test_accuracy: float | None
    """The score on test of a winner's run with one seed."""
    deleted: bool
    """By a person, in the tracker's pages: it is in the trash."""
    missing: Sequence[MissingFile]


class Check(NamedTuple):
    """An invariant that `doctor` looks at."""

    holds: bool
    text: str
    """What is wrong if it does not hold."""
    remedy: str


class Backend(Protocol):
    """The runs of one sweep in a tracker. Used by one thread at a time.

    Any method may raise whatever its library, its server or its database throw: who calls it waits,
    and asks again later. What was written before that may have arrived or not, so everything can be
    written again and is then there once.
    """

    def connect(self) -> None:
        """Find the sweep and its runs in the tracker, or make it; nothing if that is done."""
        ...

    def disconnect(self) -> None:
        """Forget what the tracker held: after an error it is not known which writes arrived."""
        ...

    def write_run(self, content: RunContent) -> Written:
        """Bring the one run that is this key's for ever up to date; its parent is there."""
        ...

    def write_files(self, key: RunKey, files: RunFiles) -> None:
        """Upload what the run of a study lacks."""
        ...

    def write_dataset(self, key: RunKey, task: TaskPlan) -> None:
        """Name the images of the task, with their fingerprint, as what the run was trained on."""
        ...

    def delete_doubles(self) -> int:
        """Move second runs of a key to the trash; how many there were.

        They come from a request that was lost for us and arrived all the same.
        """
        ...

    def register(self, key: RunKey, bundle: Path) -> None:
        """Register the bundle (its `<task>.yaml`) as a model; one that is known stays as it is."""
        ...

    def restore_models(self, key: RunKey, bundles: Mapping[str, Path]) -> int:
        """Make the files of registered models again, where they are gone; how many models.

        `bundles` are those that are there, by `bundle_digest`.
        """
        ...

    def shown_runs(self) -> Iterable[ShownRun]:
        """Runs of ours, also those in the trash; nothing is written, nor is the sweep made."""
        ...

    def settle(self) -> str | None:
        """Set right what is wrong since the sweep's folder was moved; in a sentence, what was."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pages:
    """How a person looks at sweeps in a browser."""

    server: str
    """Address of the server, also of one that is to be started."""
    pages: Mapping[str, str]
    """After the address of the server, by what is seen there; the first is that to begin with."""
    command: Sequence[str] = ()
    """Starts the server; empty: it runs somewhere."""
    environment: Mapping[str, str] | None = None
    """The environment of that command; None: that of this process."""
    notes: Sequence[str] = ()
    """What the person should know before."""


class TrackerKind(Protocol):
    """A kind of tracker: where it is, and what can be done with it before a sweep is opened."""

    @property
    def name(self) -> str:
        """The tracker's name in messages to people."""
        ...

    @property
    def variable(self) -> str:
        """The environment variable with the address of a tracker that is elsewhere."""
        ...

    @property
    def local_databases(self) -> Sequence[str]:
        """Names of the files that it keeps in the folder of a sweep if it has no such address."""
        ...

    def address(self, folder: Path) -> str:
        """What the user's environment says, or a place in the sweep's folder.

        ValueError if what it says is of no use.
        """
        ...

    def has(self, address: str) -> bool:
        """Whether it is an address of this kind of tracker."""
        ...

    def open(self, plan: SweepPlan, address: str, folder: Path | None = None) -> Backend:
        """The runs of a sweep there; nothing is asked or written yet.

        `folder` is that of the sweep, for files that no server takes.
        """
        ...

    def reach(self, address: str) -> str:
        """Ask whether it answers, and say so in a sentence; ValueError if it does not."""
        ...

    def in_copy(self, address: str, folder: Path, copies: Path) -> str:
        """The address for one who only looks, where `copies` holds the databases of `folder`."""
        ...

    def examine_folder(self, address: str, folder: Path, databases: Path) -> Iterable[Check]:
        """What must hold of its own files in the folder of a sweep, whatever the sweep did.

        `databases` is the folder, or one with copies of its databases, which may be written to.
        """
        ...

    def pages(
        self, sweeps: Mapping[Path, SweepPlan], host: str, port: int
    ) -> AbstractContextManager[Pages]:
        """The pages of the sweeps in these folders, together.

        A server that is to be started listens at `host` and `port`. ValueError if there are no
        pages, or if they cannot be shown.
        """
        ...

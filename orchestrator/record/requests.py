"""What people asked of a sweep that runs, in the order in which they asked.

A table of our own beside Optuna's: whoever asks appends a row, from any machine that reaches the
storage, and the driver notes there when it heeded it. Of Optuna's tables it stays the only writer.
A list in a user attribute would lose the request of one of two who ask at once.
"""

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import sqlalchemy
from sqlalchemy import exc

from orchestrator.record.database import wait_for
from orchestrator.record.record import Record
from orchestrator.support.document import Between, read_as

_TABLE = sqlalchemy.Table(
    "orchestrator_requests",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("number", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("sweep", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("created", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("asked_by", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("asked_at", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("wish", sqlalchemy.Text, nullable=False),
    sqlalchemy.Column("heeded_by", sqlalchemy.Text),
    sqlalchemy.Column("heeded_at", sqlalchemy.Text),
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one command asked for; what it does not name stays."""

    slots: Annotated[int, Between(1, 10**6)] | None = None
    trials: Annotated[int, Between(1, 10**7)] | None = None
    """Of each study."""
    more_trials: Annotated[int, Between(1, 10**7)] | None = None
    """For each study, beside those that it had."""
    pause: bool | None = None
    """False: go on."""
    stop: tuple[str, ...] = ()
    """Studies."""
    go_on: tuple[str, ...] = ()
    """Studies that were stopped."""

    @property
    def trials_text(self) -> str:
        """`40` or `+10`; empty where none were asked for."""
        return f"+{self.more_trials}" if self.more_trials else str(self.trials or "")

    def __str__(self) -> str:
        """As it was typed."""
        trials = self.trials_text
        words = [
            *([] if self.slots is None else [f"--slots {self.slots}"]),
            *([f"--trials {trials}"] if trials else []),
            *([] if self.pause is None else ["--pause" if self.pause else "--go-on"]),
            *(f"--stop-study {name}" for name in self.stop),
            *(f"--go-on-study {name}" for name in self.go_on),
        ]
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A wish with who had it, and when."""

    number: int
    """Grows in the order in which was asked, over all sweeps of a storage."""
    wish: Wish
    asked_by: str
    """`anna on node-1`."""
    asked_at: str
    """UTC, ISO 8601."""
    heeded_by: str | None = None
    """The driver: `process 12 on node-1`."""
    heeded_at: str | None = None
    """None: no driver has seen it yet."""

    @property
    def asked(self) -> str:
        """`asked by anna on node-1 at 2026-01-31 12:00:00 UTC`."""
        return f"asked by {self.asked_by} at {shown_time(self.asked_at)}"


def shown_time(utc: str) -> str:
    """`2026-01-31 12:00:00 UTC`."""
    return f"{utc.partition('+')[0].replace('T', ' ')} UTC"


def ask(record: Record, wish: Wish) -> Request:
    """Append a wish to those of a sweep."""
    row = {
        "sweep": record.plan.name,
        "created": record.plan.created,
        "asked_by": f"{_user()} on {socket.gethostname()}",
        "asked_at": _now(),
        "wish": json.dumps({k: v for k, v in asdict(wish).items() if v not in (None, ())}),
    }

    engine = _engine_of(record)

    def append() -> int:
        _make_table(engine)
        with engine.begin() as connection:
            made = connection.execute(sqlalchemy.insert(_TABLE).values(row))
        (number,) = made.inserted_primary_key or (0,)
        return number

    number = wait_for(append)
    return Request(number=number, wish=wish, asked_by=row["asked_by"], asked_at=row["asked_at"])


def requests(record: Record, *, patiently: bool = True) -> list[Request]:
    """All that was asked of a sweep so far, by number.

    A storage that is away is waited for `patiently`, else it is a StorageError at once.
    """
    plan, columns, engine = record.plan, _TABLE.columns, record.engine
    of_sweep = columns.sweep == plan.name, columns.created == plan.created
    query = sqlalchemy.select(_TABLE).where(*of_sweep).order_by(columns.number)

    def read() -> Sequence[sqlalchemy.Row]:
        if engine is None or not sqlalchemy.inspect(engine).has_table(_TABLE.name):
            return ()  # nobody ever asked
        with engine.connect() as connection:
            return connection.execute(query).all()

    return [
        Request(
            number=row.number,
            wish=_wish(row.wish, source=f"sweep {plan.name}: request {row.number}"),
            asked_by=row.asked_by,
            asked_at=row.asked_at,
            heeded_by=row.heeded_by,
            heeded_at=row.heeded_at,
        )
        for row in (wait_for(read) if patiently else read())
    ]


def heed(record: Record, numbers: Sequence[int], *, patiently: bool = True) -> None:
    """The driver notes that it has seen these requests."""
    heeded = (
        sqlalchemy.update(_TABLE)
        .where(_TABLE.columns.number.in_(numbers), _TABLE.columns.heeded_at.is_(None))
        .values(heeded_by=f"process {os.getpid()} on {socket.gethostname()}", heeded_at=_now())
    )

    engine = _engine_of(record)

    def note() -> None:
        with engine.begin() as connection:
            connection.execute(heeded)

    if patiently:
        wait_for(note)
    else:
        note()


def _engine_of(record: Record) -> sqlalchemy.Engine:
    assert record.engine is not None, "nobody asks anything of a search in memory"
    return record.engine


def _wish(text: str, *, source: str) -> Wish:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: is not as it was written: {error}") from None
    return read_as(Wish, document, source=source)


def _make_table(engine: sqlalchemy.Engine) -> None:
    try:
        _TABLE.create(engine, checkfirst=True)
    except exc.DBAPIError:  # whoever asked at the same moment has made it
        if not sqlalchemy.inspect(engine).has_table(_TABLE.name):
            raise


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container knows no name for its user
        return f"user {os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

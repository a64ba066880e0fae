"""Where the record of a sweep is kept: a database, by default a SQLite file in its folder.

A database that is locked or away is waited for. One that stays so, is full, damaged or may not be
written ends what was asked of it with a StorageError: what was written before is safe.
"""

import functools
import json
import logging
import os
import re
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy
from optuna import Study
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, exc

from orchestrator.record.optuna_private import knows_tables, models
from orchestrator.record.read_tables import NOT_OURS, read_trials
from orchestrator.support.extras import require

logger = logging.getLogger(__name__)

STORAGE_FILE = "studies.db"

IN_MEMORY = "memory"
"""Instead of an address: nothing is kept."""

PATIENCE_SECONDS = float(os.environ.get("ORCHESTRATOR_STORAGE_SECONDS", 60))
"""A database that is locked by others or away is waited for so long."""

_RETRY_SECONDS = 0.5
_SQLITE_BUSY_SECONDS = 2
_CONNECT_SECONDS = 10
_TABLE_ATTEMPTS = 20
_MADE_BY_ANOTHER = ("already exists", "duplicate key", "UNIQUE constraint")

Answer = TypeVar("Answer")
Asked = ParamSpec("Asked")


class StorageError(ValueError):
    """The database of a sweep could not be read or written; the message says why."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether waiting may help."""


def default_storage(folder: Path) -> str:
    """The address of a sweep folder's own database."""
    return sqlite_address(folder / STORAGE_FILE)


def sqlite_address(path: Path) -> str:
    """ValueError for a path that means another file where it stands in an address."""
    path = path.absolute()
    if "?" in str(path) or re.search("%[0-9A-Fa-f]{2}", str(path)):
        raise ValueError(
            f"{path.parent}: no database can be opened below a folder with ?, or with % and two "
            "digits, in its name; rename it"
        )
    return f"sqlite:///{path}"


def sqlite_uri(path: Path, mode: str) -> str:
    """For `sqlite3.connect(..., uri=True)`: just this file, also with `#`, `?` or `%` in its path.

    With the modes `ro` and `rw` none is made.
    """
    return f"file://{urllib.parse.quote(os.fsencode(path.absolute()))}?mode={mode}"


def without_password(url: str) -> str:
    """The address of a database as it may be shown."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except (exc.ArgumentError, ValueError):
        # It names what it cannot read, which may hold a password.
        raise ValueError(
            "--storage: is not the address of a database, such as "
            "postgresql+psycopg://user@host/studies or sqlite:////folder/studies.db"
        ) from None


def with_driver(url: str) -> str:
    """The address with a driver that is installed; ValueError says what to install.

    `postgresql://` alone means the driver that comes with our own extra.
    """
    shown = without_password(url)
    address = sqlalchemy.make_url(url)
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if address.drivername == "postgresql+psycopg":
        require("postgres", "psycopg", what=shown)
    try:
        address.get_dialect().import_dbapi()
    except (ImportError, AttributeError, exc.NoSuchModuleError) as error:
        raise ValueError(
            f"{shown}: {address.drivername!r} cannot be used here ({error}); "
            "postgresql:// and sqlite:/// can"
        ) from None
    return address.render_as_string(hide_password=False)


def ask_once(url: str) -> None:
    """Before a long planning: whether the database answers at all; StorageError if it does not."""
    engine = make_engine(url)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def open_storage(url: str) -> BaseStorage:
    """The database at an SQLAlchemy address behind Optuna's cache of finished trials."""
    return get_storage(open_database(url))


def id_of_trial(storage: BaseStorage, study: Study, number: int) -> int:
    """What storages know a trial by."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def open_database(url: str) -> "PatientStorage | MemoryDatabase":
    """The database at an SQLAlchemy address, with Optuna's tables in it; or one in memory."""
    if url == IN_MEMORY:
        return MemoryDatabase()
    shown = without_password(url)
    try:
        storage = _make_tables(url)
    except (ImportError, exc.NoSuchModuleError) as error:
        raise ValueError(f"{shown}: needs a driver that is not installed: {error}") from None
    except (exc.DBAPIError, StorageInternalError) as error:
        failed = error if isinstance(error, exc.DBAPIError) else error.__cause__
        said = _what_happened(getattr(failed, "orig", None))
        if said is None:
            raise
        raise StorageError(f"{shown}: {said[0]}", may_pass=said[1]) from None
    except RuntimeError as error:  # Optuna's tables in it are of another version
        raise ValueError(f"{shown}: {error}") from None
    storage.prepare(shown)
    return storage


def _make_tables(url: str) -> "PatientStorage":
    """Optuna asks for each table whether it is there and then makes it: of sweeps that begin
    together on a new database all but one find a table that was not there when they asked."""
    for attempt in range(1, _TABLE_ATTEMPTS + 1):
        try:
            return PatientStorage(url, engine_kwargs=_engine_options(url))
        except (exc.DBAPIError, StorageInternalError) as error:
            cause = f"{error} {error.__cause__}"
            made_by_another = any(words in cause for words in _MADE_BY_ANOTHER)
            if attempt == _TABLE_ATTEMPTS or not made_by_another:
                raise
            time.sleep(_RETRY_SECONDS)
    raise AssertionError


def make_engine(url: str, **options: Any) -> sqlalchemy.Engine:
    """An engine whose errors are StorageErrors, for what is not asked through Optuna."""
    engine = sqlalchemy.create_engine(url, **_engine_options(url), **options)
    event.listen(engine, "handle_error", _translator(without_password(url)))
    return engine


def _engine_options(url: str) -> dict[str, Any]:
    """Nothing may hang: neither on a lock nor on a machine that is gone without a word."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": _SQLITE_BUSY_SECONDS}}
    if url.startswith("postgres"):
        waits = {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 30_000}
        return {"connect_args": waits}
    return {}


_checks: dict[str, Callable[[], None]] = {}


@contextmanager
def checked(url: str, check: Callable[[], None]) -> Iterator[None]:
    """While entered, `check` comes before every new connection to `url` and every new trial."""
    _checks[url] = check
    try:
        yield
    finally:
        del _checks[url]


def wait_for(call: Callable[[], Answer], *, repeated: Callable[[], Answer] | None = None) -> Answer:
    """What `call` answers; while that fails for a reason that may pass, it is `repeated`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    waited = False
    while True:
        try:
            answer = (repeated or call)() if waited else call()
            if waited:
                logger.warning("the storage answers again")
            return answer
        except StorageError as error:
            if not error.may_pass:
                raise
            if time.monotonic() > deadline:
                raise StorageError(f"{error}, for {PATIENCE_SECONDS:.0f} s") from error
            if not waited:
                logger.warning("%s; waiting up to %.0f s", error, PATIENCE_SECONDS)
            waited = True
            time.sleep(_RETRY_SECONDS)


def _waiting(method: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """A method of Optuna's that waits for the database; StorageError where that is damaged."""

    @functools.wraps(method)
    def call(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
        try:
            return wait_for(lambda: method(*arguments, **named))
        except (json.JSONDecodeError, LookupError, RecursionError) as error:
            if isinstance(error, KeyError | IndexError):  # Optuna's answer to a wrong question
                raise
            storage: Any = arguments[0]
            raise StorageError(f"{storage.shown}: is not as it was written: {error}") from error

    return call


class MemoryDatabase(InMemoryStorage):
    """Trials that nobody keeps: of a search that is only imitated."""

    shown = "memory"


class PatientStorage(RDBStorage):
    """Optuna's storage, whose every method waits for a database that is away."""

    shown = "the storage"
    """Its address, without a password."""
    knows_tables = True
    """Whether Optuna's tables are those that we may read and write ourselves."""

    def prepare(self, shown: str) -> None:
        self._address = str(self.url)
        self.shown = shown
        self.knows_tables = knows_tables(self.get_head_version())
        self._next_numbers: dict[int, int] = {}
        event.listen(self.engine, "handle_error", _translator(shown))
        event.listen(self.engine, "do_connect", self._before_connecting)

    def _before_connecting(self, *_: Any) -> None:
        if check := _checks.get(self._address):
            check()

    create_new_study = _waiting(RDBStorage.create_new_study)
    delete_study = _waiting(RDBStorage.delete_study)
    get_all_studies = _waiting(RDBStorage.get_all_studies)
    get_study_directions = _waiting(RDBStorage.get_study_directions)
    get_study_id_from_name = _waiting(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _waiting(RDBStorage.get_study_name_from_id)
    get_study_system_attrs = _waiting(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _waiting(RDBStorage.get_study_user_attrs)
    set_study_system_attr = _waiting(RDBStorage.set_study_system_attr)
    set_study_user_attr = _waiting(RDBStorage.set_study_user_attr)

    get_all_trials = _waiting(RDBStorage.get_all_trials)
    get_trial = _waiting(RDBStorage.get_trial)
    get_trial_id_from_study_id_trial_number = _waiting(
        RDBStorage.get_trial_id_from_study_id_trial_number
    )
    set_trial_intermediate_value = _waiting(RDBStorage.set_trial_intermediate_value)
    set_trial_param = _waiting(RDBStorage.set_trial_param)
    set_trial_system_attr = _waiting(RDBStorage.set_trial_system_attr)
    set_trial_user_attr = _waiting(RDBStorage.set_trial_user_attr)
    # Which Optuna's cache asks:
    _get_best_trial_id = _waiting(RDBStorage._get_best_trial_id)
    _set_trial_param = _waiting(RDBStorage._set_trial_param)

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """A trial that was made is not made again, if only the answer was lost."""
        wait_for(self._before_connecting)
        if study_id not in self._next_numbers:
            self._next_numbers[study_id] = wait_for(lambda: self._num_trials(study_id))
        number = self._next_numbers[study_id]

        def create() -> FrozenTrial:
            return RDBStorage._create_new_trial(self, study_id, template_trial)

        def find_or_create() -> FrozenTrial:
            if self._num_trials(study_id) == number:
                return create()
            return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))

        trial = wait_for(create, repeated=find_or_create)
        self._next_numbers[study_id] = trial.number + 1
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        def tell() -> bool:
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        def tell_unless_told() -> bool:
            try:
                return tell()
            except UpdateFinishedTrialError:
                return True

        return wait_for(tell, repeated=tell_unless_told)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        def read() -> list[FrozenTrial]:
            try:
                if not self.knows_tables:
                    return RDBStorage._get_trials(
                        self, study_id, states, included_trial_ids, trial_id_greater_than
                    )
                return read_trials(
                    self.engine,
                    study_id,
                    states=None if states is None else [s for s in TrialState if s in states],
                    newer_than=trial_id_greater_than,
                    and_these=included_trial_ids,
                )
            except (StorageError, KeyError):
                raise
            except NOT_OURS as error:
                raise StorageError(f"{self.shown}: {error}") from error

        return wait_for(read)

    def _num_trials(self, study_id: int) -> int:
        if not self.knows_tables:
            return self.get_n_trials(study_id)
        of_study = models.TrialModel.study_id == study_id
        trials = sqlalchemy.select(sqlalchemy.func.count()).where(of_study)
        with self.engine.connect() as connection:
            return connection.execute(trials).scalar_one()


def _translator(shown: str) -> Callable[[sqlalchemy.ExceptionContext], None]:
    def translate(context: sqlalchemy.ExceptionContext) -> None:
        said = _what_happened(context.original_exception)
        if said is not None:
            sentence, may_pass = said
            raise StorageError(f"{shown}: {sentence}", may_pass=may_pass) from None

    return translate


def _what_happened(error: BaseException | None) -> tuple[str, bool] | None:
    """A sentence for a fault of the database, and whether it may pass; None: a fault of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, sqlite3.Error):
        for words, sentence, may_pass in _SQLITE:
            if words in text:
                return sentence.format(text), may_pass
        return None
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "DiskFull" in kinds:
        return f"the disk of the server is full ({text})", True
    if "ReadOnlySqlTransaction" in kinds or "InsufficientPrivilege" in kinds:
        return f"may not be written ({text})", False
    if "password authentication failed" in text or "does not exist" in text:
        return f"refuses the connection ({text})", False
    if "OperationalError" in kinds or "InterfaceError" in kinds:
        return f"does not answer ({text})", True
    return None


_SQLITE = (
    ("locked", "is locked by another process", True),
    ("disk is full", "the disk is full", False),
    ("readonly", "may not be written ({})", False),
    ("unable to open", "cannot be opened ({})", False),
    ("disk I/O", "the disk cannot be read or written ({})", False),
    ("not a database", "is not a database ({})", False),
    ("malformed", "is damaged ({})", False),
)

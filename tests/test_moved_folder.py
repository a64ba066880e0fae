"""A sweep folder that was moved, copied or made by a stranger: MLflow shows its own files only."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import make_plan, make_record, run_trial, wait_for

from orchestrator.bundle.bundle import BUNDLE_SUFFIXES
from orchestrator.cli.bundles import export
from orchestrator.cli.doctor import doctor
from orchestrator.cli.ui import ui
from orchestrator.plan.plan import load_plan, save_plan
from orchestrator.record.database import StorageError
from orchestrator.record.owner import owned, unowned
from orchestrator.record.record import open_record
from orchestrator.run.doctor import Examination, examine, repair
from orchestrator.tracking.backend import TrackingError
from orchestrator.tracking.mlflow.places import set_addresses, wrong_addresses
from orchestrator.tracking.mlflow.store import open_client
from orchestrator.tracking.reconcile import reconcile, tracked_runs
from orchestrator.tracking.snapshot import copied_databases, readable_databases
from orchestrator.tracking.trackers import tracking_uri

STUDY = "caltech101.vpt_deep"
OUTSIDE = (
    "/etc",
    "file:///",
    "file:///etc",
    "file:/etc",
    "../..",
    "./mlruns/0",
    "s3://bucket/key",
    "mlflow-artifacts://elsewhere:5000/x",
    "mlflow-artifacts:/../../etc",
    "mlflow-artifacts:/%2e%2e/etc",
    "{root}/../..",
    "{root}/%2E%2E/%2e%2e",
    "{root}/%252e%252e/x",
    "{root}?x=/etc",
    "{root}elsewhere",
    "/etc/mlartifacts/../../etc",
    "/x/mlartifacts/a\\..\\..\\b",
    "/x/mlartifacts/a%2f..%2fb",
    "file://[x/mlartifacts/run",
    "ftp://host/mlartifacts/run",
    "",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A sweep folder with a finished study and its files in MLflow. Only copied."""
    folder = tmp_path_factory.mktemp("made") / "sweep"
    folder.mkdir()
    plan = make_plan(num_trials=2)
    save_plan(plan, folder)
    record = make_record(plan, folder)
    for accuracy in (0.4, 0.6):
        run_trial(record, STUDY, accuracy=accuracy)
    place = folder / "best" / "by_method" / "vpt_deep"
    place.mkdir(parents=True)
    best = [place / f"caltech101{suffix}" for suffix in BUNDLE_SUFFIXES]
    for file in best:
        file.write_text(f"best {file.suffix}")
    reconcile(plan, record, tracking_uri(folder), best_files=lambda study: best)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """The sweep at another place, where the first one is still there."""
    return shutil.copytree(made, tmp_path / "copy #1 é:x %zz")


def look(folder: Path) -> Examination:
    plan = load_plan(folder)
    found = examine(plan, open_record(plan, folder), folder, tracking_uri(folder))
    found.findings = [finding for finding in found.findings if finding.about == "mlflow"]
    return found


def mend(folder: Path) -> list[str]:
    plan = load_plan(folder)
    return repair(plan, open_record(plan, folder), None, folder, tracking_uri(folder))


def files_shown(folder: Path) -> set[str]:
    """All artifacts of the study's run, by MLflow's own client, that can be read."""
    client = open_client(tracking_uri(folder))
    run = study_run(folder)
    found = set()
    for place in (None, "best"):
        for entry in client.list_artifacts(run.info.run_id, place):
            if not entry.is_dir:
                assert Path(client.download_artifacts(run.info.run_id, entry.path)).read_bytes()
                found.add(entry.path)
    return found


def study_run(folder: Path) -> Any:
    client = open_client(tracking_uri(folder))
    ids = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(ids, filter_string="tags.kind = 'study'", run_view_type=3)
    return found[0]


def content_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and content of everything in a folder, and of the folder."""
    return {
        str(path): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in (folder, *folder.rglob("*"))
    }


FILES = {"search_space.yaml", "study.html"} | {
    f"best/caltech101{suffix}" for suffix in BUNDLE_SUFFIXES
}


def test_a_copy_shows_its_own_files_and_never_writes_to_the_first(folder, made):
    before = content_of(made)
    (finding,) = look(folder).findings
    assert "addresses of files are those of another place" in finding.text
    assert str(made) in finding.text and finding.remedy == "repair"
    mend(folder)
    assert look(folder).findings == []
    assert files_shown(folder) == FILES
    assert content_of(made) == before


def test_a_sweep_that_goes_on_elsewhere_writes_there(folder, made):
    before = content_of(made)
    plan = load_plan(folder)
    new = folder / "caltech101.yaml"
    new.write_text("better")
    reconcile(plan, open_record(plan, folder), tracking_uri(folder), best_files=lambda s: [new])
    run = study_run(folder)
    written = folder / "mlartifacts" / run.info.run_id / "artifacts" / "best" / "caltech101.yaml"
    assert written.read_text() == "better"
    assert content_of(made) == before


@pytest.mark.parametrize(
    "lost", ["search_space.yaml", "study.html", "best/caltech101.md", "best", "."]
)
def test_files_that_are_gone_are_found_and_made_again(folder, lost):
    mend(folder)
    artifacts = folder / "mlartifacts" / study_run(folder).info.run_id / "artifacts"
    if (artifacts / lost).is_dir():
        shutil.rmtree(artifacts / lost)
    else:
        (artifacts / lost).unlink()
    (finding,) = look(folder).findings
    assert "MLflow lacks" in finding.text and finding.remedy == "repair"
    mend(folder)
    assert look(folder).findings == []
    assert files_shown(folder) == FILES


def test_looking_writes_nothing(folder):
    before = content_of(folder)
    with contextlib.suppress(BaseException):  # it finds that the bundles are not there
        doctor(folder)
    assert content_of(folder) == before


def test_what_a_killed_driver_had_begun_to_write_to_mlflow_is_undone(folder, tmp_path):
    """SQLite says of such a database that it is read-only to who opened it to read."""
    database = folder / "mlflow.db"
    shutil.copytree(folder, killed := tmp_path / "killed")
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET name = name || ?", ("." * 9000,))
        for file in (database, Path(f"{database}-journal")):  # as it lies there after SIGKILL
            shutil.copy(file, killed / file.name)
        writer.execute("ROLLBACK")
    refused = pytest.raises(sqlite3.OperationalError, match="readonly")
    to_read = sqlite3.connect(f"file:{killed / 'mlflow.db'}?mode=ro", uri=True)
    with closing(to_read) as reader, refused:
        reader.execute("SELECT name FROM runs").fetchall()
    set_addresses(killed / "mlflow.db", killed / "mlartifacts")
    with closing(sqlite3.connect(killed / "mlflow.db")) as reader:
        assert not [name for (name,) in reader.execute("SELECT name FROM runs") if "..." in name]
    assert not wrong_addresses(killed / "mlflow.db", killed / "mlartifacts")


def test_a_folder_that_may_not_be_written_is_read_from_copies(folder, monkeypatch):
    before = content_of(folder)
    really = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and really(path, mode))
    with readable_databases(folder) as databases:
        assert len(open_record(load_plan(folder), databases).trials(STUDY)) == 2
    assert content_of(folder) == before
    assert not databases.exists()


def test_who_only_looks_is_told_of_the_owner_and_does_not_disturb_one(folder):
    with unowned(folder), owned(folder):
        pass
    told = rf"is being run by process {os.getpid()} "
    with owned(folder), pytest.raises(ValueError, match=told), unowned(folder):
        raise AssertionError("somebody runs it")


def test_a_run_that_a_person_deleted_is_no_finding_and_stays_so(folder):
    mend(folder)
    client = open_client(tracking_uri(folder))
    run = study_run(folder)
    child = client.search_runs(
        [run.info.experiment_id], filter_string="tags.`orchestrator.trial` = '1'"
    )[0]
    client.delete_run(child.info.run_id)
    found = look(folder)
    assert found.findings == []
    (note,) = found.notes
    assert "1 run deleted there by a person and left so" in note
    assert "MLflow: 1 run stays deleted, as a person left it" in mend(folder)
    shown = tracked_runs(load_plan(folder), tracking_uri(folder))
    assert [run.deleted for run in shown].count(True) == 1


def poison(folder: Path, table: str, column: str, text: str) -> None:
    """What a stranger, or an older version, may have written; a row is made where there is none."""
    run = study_run(folder)
    rows = {
        "model_versions": "INSERT INTO model_versions (workspace, name, version, run_id) "
        "VALUES ('default', 'm', 1, ?)",
        "logged_models": "INSERT INTO logged_models (model_id, experiment_id, name, "
        "artifact_location, creation_timestamp_ms, last_updated_timestamp_ms, status, "
        "lifecycle_stage, source_run_id) VALUES ('m-1', 1, 'm', '', 0, 0, 2, 'active', ?)",
    }
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        if table in rows:
            database.execute(
                "INSERT INTO registered_models (workspace, name) VALUES ('default', 'm')"
            )
            database.execute(rows[table], [run.info.run_id])
        changed = database.execute(f"UPDATE {table} SET {column} = ?", [text])
        assert changed.rowcount


@pytest.mark.parametrize("text", OUTSIDE)
def test_an_address_outside_of_the_folder_is_found_refused_and_set_right(folder, text):
    database, artifacts = folder / "mlflow.db", folder / "mlartifacts"
    set_addresses(database, artifacts)
    poison(folder, "runs", "artifact_uri", text.format(root=artifacts.as_uri()))
    wrong = wrong_addresses(database, artifacts)
    assert len(wrong) == 3 and all(address.where.startswith("runs ") for address in wrong)
    if any(address.foreign for address in wrong):
        with pytest.raises(ValueError, match=r"lead out of the folder.* doctor .* --repair"):
            ui([folder], port=1)
    assert set_addresses(database, artifacts) == wrong
    assert wrong_addresses(database, artifacts) == []


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("experiments", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
        ("logged_models", "artifact_location"),
        ("workspaces", "default_artifact_root"),
        ("workspaces", "trace_archival_location"),
    ],
)
def test_every_column_with_an_address_is_known(folder, table, column):
    database, artifacts = folder / "mlflow.db", folder / "mlartifacts"
    set_addresses(database, artifacts)
    poison(folder, table, column, "file:///etc")
    wrong = wrong_addresses(database, artifacts)
    assert wrong and all(address.where.startswith(table) for address in wrong)
    set_addresses(database, artifacts)
    assert wrong_addresses(database, artifacts) == []


def test_every_column_that_mlflow_has_for_an_address_is_looked_at(folder):
    """One that a later MLflow adds is to be looked at, or to be named here."""
    from orchestrator.tracking.mlflow.places import _COLUMNS

    known = {(column.table, column.column) for column in _COLUMNS}
    no_files = {
        ("runs", "source_type"),
        ("runs", "source_name"),
        ("runs", "source_version"),
        ("datasets", "dataset_source_type"),
        ("datasets", "dataset_source"),
        ("evaluation_dataset_records", "source"),
        ("mcp_server_versions", "source"),
        ("issues", "root_causes"),
    }
    parts = ("location", "artifact", "uri", "root", "path", "source")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = {
            (table, row[1])
            for (table,) in tables
            for row in database.execute(f"PRAGMA table_info({table})")
            if any(part in row[1].split("_") for part in parts) and not row[1].endswith("_id")
        }
    types = {(table, column) for table, column in found if column.endswith("_type")}
    assert found - types - no_files <= known


def test_a_database_with_a_trigger_of_a_stranger_is_refused(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute(
            "CREATE TRIGGER again AFTER UPDATE ON runs BEGIN UPDATE runs SET artifact_uri='/'; END"
        )
    with pytest.raises(TrackingError, match="has a trigger, 'again', not of MLflow's"):
        set_addresses(folder / "mlflow.db", folder / "mlartifacts")
    with pytest.raises(ValueError, match="has a trigger"):
        ui([folder], port=1)


VIEW = "SELECT run_uuid, artifact_uri FROM hidden"


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        (["CREATE TRIGGER t AFTER UPDATE ON RUNS BEGIN DELETE FROM tags; END"], "trigger, 't'"),
        (
            ["CREATE TRIGGER t AFTER INSERT ON params BEGIN UPDATE runs SET artifact_uri='/'; END"],
            "trigger, 't'",
        ),
        (
            [
                "DROP TRIGGER prevent_secrets_aad_mutation",
                "CREATE TRIGGER prevent_secrets_aad_mutation BEFORE UPDATE ON secrets "
                "BEGIN UPDATE runs SET artifact_uri='/'; END",
            ],
            "trigger, 'prevent_secrets_aad_mutation'",
        ),
        (["ALTER TABLE runs RENAME TO hidden", f"CREATE VIEW Runs AS {VIEW}"], "view, 'Runs'"),
        (["ALTER TABLE runs RENAME TO hidden", f'CREATE VIEW "runs" AS {VIEW}'], "view, 'runs'"),
        (["DROP TABLE runs", "CREATE VIRTUAL TABLE runs USING fts5(run_uuid)"], "table, 'runs'"),
        (
            [
                "ALTER TABLE runs RENAME COLUMN artifact_uri TO old",
                "ALTER TABLE runs ADD COLUMN Artifact_URI TEXT AS ('file:///etc') VIRTUAL",
            ],
            r"generated column, runs\.artifact_uri",
        ),
        (
            [
                "ALTER TABLE runs RENAME COLUMN artifact_uri TO old",
                "ALTER TABLE runs ADD COLUMN artifact_uri TEXT REFERENCES tags ON UPDATE CASCADE",
            ],
            r"foreign key, runs\.artifact_uri",
        ),
    ],
)
def test_a_database_that_could_hide_or_undo_an_address_is_refused(folder, commands, told):
    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as database:
        for command in commands:
            database.execute(command)
    for ask in (wrong_addresses, set_addresses):
        with pytest.raises(TrackingError, match=rf"has a {told}, not of MLflow's"):
            ask(folder / "mlflow.db", folder / "mlartifacts")


def test_an_address_is_found_however_its_column_is_spelt(folder):
    database, artifacts = folder / "mlflow.db", folder / "mlartifacts"
    poison(folder, "runs", "artifact_uri", "file:///etc")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE runs RENAME COLUMN artifact_uri TO ARTIFACT_URI")
    assert any(a.where.startswith("runs ") for a in wrong_addresses(database, artifacts))
    set_addresses(database, artifacts)
    assert wrong_addresses(database, artifacts) == []


def test_an_address_that_does_not_stay_set_is_told(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("ALTER TABLE runs ADD COLUMN rowid INTEGER")
    with pytest.raises(TrackingError, match="cannot be set: runs "):
        set_addresses(folder / "mlflow.db", folder / "mlartifacts")


def test_the_database_of_another_sweep_keeps_its_addresses(folder, tmp_path, monkeypatch):
    set_addresses(folder / "mlflow.db", folder / "mlartifacts")
    other = tmp_path / "other"
    other.mkdir()
    plan = replace(make_plan(num_trials=2), name="other")
    save_plan(plan, other)
    run_trial(make_record(plan, other), STUDY, accuracy=0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(folder))
    mend(other)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    names = {plan.name for plan in (load_plan(folder), load_plan(other))}
    wrong = wrong_addresses(folder / "mlflow.db", folder / "mlartifacts")
    assert len(names) == 2 and wrong
    assert all(f"{other.as_uri()}/mlartifacts" in address.text for address in wrong)


def test_doctor_opens_the_storage_and_no_file_of_a_shorter_name(folder):
    look(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_the_name_of_an_unfinished_file_is_left_alone(folder):
    (folder / "trials" / "mine.part").mkdir(parents=True)
    mend(folder)
    assert look(folder).findings == []
    assert (folder / "trials" / "mine.part").is_dir()


def test_a_copy_of_a_database_that_is_written_to_is_whole(tmp_path):
    database = tmp_path / "studies.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 5")  # so that it writes before the end
        writer.execute("CREATE TABLE rows (text)")
        writer.execute("INSERT INTO rows VALUES ('old')")
        code = f"""
import os, sqlite3
other = sqlite3.connect({str(database)!r}, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
other.execute("UPDATE rows SET text = 'half'")
print(flush=True)
input()
other.execute("COMMIT")
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout and other.stdout.readline()
            assert (tmp_path / "studies.db-journal").exists()
            with copied_databases(tmp_path) as copies:
                assert [path.name for path in copies.iterdir()] == ["studies.db"]
                with closing(sqlite3.connect(copies / "studies.db")) as copy:
                    assert copy.execute("SELECT text FROM rows").fetchall() == [("old",)]
            other.communicate(b"\n")


def test_what_a_writer_left_half_written_is_undone_in_the_copy_alone(tmp_path):
    database = tmp_path / "studies.db"
    code = f"""
import os, sqlite3
database = sqlite3.connect({str(database)!r}, isolation_level=None)
database.execute("CREATE TABLE rows (text)")
database.executemany("INSERT INTO rows VALUES (?)", [("old",)])
database.execute("BEGIN")
database.executemany("INSERT INTO rows VALUES (?)", [("old" * 500,)] * 500)
database.execute("COMMIT")
database.execute("PRAGMA cache_size = 5")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE rows SET text = 'half'")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    before = content_of(tmp_path)
    assert (tmp_path / "studies.db-journal").exists()
    with (
        copied_databases(tmp_path) as copies,
        closing(sqlite3.connect(copies / "studies.db")) as copy,
    ):
        assert copy.execute("SELECT count(*) FROM rows WHERE text = 'half'").fetchone() == (0,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_copying_a_database_that_nobody_has_open_writes_nothing(mode, tmp_path):
    folder = tmp_path / "a ? b # c %41"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "studies.db")) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE rows (text)")
    before = content_of(tmp_path)
    with (
        copied_databases(folder) as copies,
        closing(sqlite3.connect(copies / "studies.db")) as copy,
    ):
        assert copy.execute("SELECT name FROM sqlite_master").fetchall() == [("rows",)]
    assert content_of(tmp_path) == before


def test_a_database_that_stays_locked_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.record.copies.PATIENCE_SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None)) as writer:
        writer.execute("CREATE TABLE rows (text)")
        writer.execute("BEGIN EXCLUSIVE")
        told = r"studies\.db: is locked"
        with pytest.raises(StorageError, match=told), copied_databases(tmp_path):
            raise AssertionError("half a copy")


@pytest.mark.parametrize(
    "place", [".owner", "mlflow.db.part", "trials/x/1.part", "mlartifacts/run"]
)
def test_nothing_is_opened_through_a_link(folder, place, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    link = folder / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(mine)
    for command in (doctor, lambda f: doctor(f, repair=True), lambda f: ui([f], port=1), export):
        with pytest.raises(ValueError, match="symbolic link"):
            command(folder)
    with pytest.raises(ValueError, match="symbolic link"), owned(folder):
        raise AssertionError("it holds a link")
    assert mine.read_text() == "kept"


def test_a_link_to_the_folder_is_the_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    mend(tmp_path / "link")
    assert look(folder).findings == []
    assert look(tmp_path / "link").findings == []


@pytest.mark.parametrize("name", ["what?", "100%25"])
def test_a_folder_whose_databases_no_address_can_name_is_refused(name, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / name)
    with pytest.raises(ValueError, match="rename it"):
        doctor(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.slow
@pytest.mark.mlflow
def test_the_server_hands_out_the_files_of_the_sweep_and_no_others(folder):
    secret = folder.parent / "secret.txt"
    secret.write_text("do not show")
    run = study_run(folder).info.run_id
    poison(folder, "model_versions", "storage_location", folder.parent.as_uri())
    poison_source = folder.parent.as_uri()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("UPDATE model_versions SET source = ?", [poison_source])
    with pytest.raises(ValueError, match="lead out of the folder"):
        ui([folder], port=1)
    mend(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "ui", str(folder), "--port", str(port)],
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
        stdout=subprocess.DEVNULL,
    )

    def ask(page: str, **query: str) -> tuple[int, bytes]:
        address = f"http://127.0.0.1:{port}/{page}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    try:
        wait_for(lambda: ask("health")[0] == 200)
        status, space = ask("get-artifact", run_uuid=run, path="search_space.yaml")
        assert status == 200 and b"num_tokens" in space
        for path in ("secret.txt", "../secret.txt", str(secret), "../../../../../secret.txt"):
            for answer in (
                ask("get-artifact", run_uuid=run, path=path),
                ask("model-versions/get-artifact", name="m", version="1", path=path),
                ask(f"api/2.0/mlflow-artifacts/artifacts/{urllib.parse.quote(path, safe='')}"),
                ask("ajax-api/2.0/mlflow/artifacts/list", run_id=run, path=path),
            ):
                assert answer[0] >= 400 or b"do not show" not in answer[1], (path, answer)
        status, listed = ask("ajax-api/2.0/mlflow/artifacts/list", run_id=run)
        assert status == 200 and b"secret.txt" not in listed
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(300)

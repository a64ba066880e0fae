"""The pages of several sweeps: one database of all, each file in its own folder."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from plans import make_plan, make_record, run_trial
from shown_runs import client, no_files, runs_of

from orchestrator.plan.plan import save_plan
from orchestrator.tracking.mlflow.experiment import addresses_of
from orchestrator.tracking.mlflow.places import set_addresses
from orchestrator.tracking.mlflow.store import MLFLOW_FILE
from orchestrator.tracking.mlflow.united import united
from orchestrator.tracking.reconcile import reconcile

MODEL = "test-sweep.caltech101"


@pytest.fixture(scope="module")
def folders(empty_store, tmp_path_factory) -> list[Path]:
    """Two sweeps of one name, each with a trial and a registered model. Only read."""
    made = []
    for year in (2026, 2027):
        folder = tmp_path_factory.mktemp(f"of-{year}")
        plan = replace(make_plan(num_trials=1), created=f"{year}-11-21T09:00:00+00:00")
        save_plan(plan, folder)
        record = make_record(plan, folder)
        run_trial(record, plan.studies[0].name, accuracy=0.5 + (year - 2026) / 4)
        shutil.copy(empty_store, folder / MLFLOW_FILE)
        uri = f"sqlite:///{folder / MLFLOW_FILE}"
        reconcile(plan, record, uri, folder=folder, best_files=no_files)
        run = next(run for run in runs_of(uri) if run.data.tags["kind"] == "study")
        client(uri).create_registered_model(MODEL)
        client(uri).create_model_version(MODEL, run.info.artifact_uri, run.info.run_id)
        client(uri).set_registered_model_alias(MODEL, "champion", "1")
        made.append(folder)
    return made


def test_all_runs_of_several_sweeps_are_in_one_place_and_their_own_stay_as_they_are(folders):
    before = [(folder / MLFLOW_FILE).read_bytes() for folder in folders]
    own = {r.info.run_id: r for f in folders for r in runs_of(f"sqlite:///{f / MLFLOW_FILE}")}
    with united(folders) as place:
        uri = f"sqlite:///{place / MLFLOW_FILE}"
        shown = {run.info.run_id: run for run in runs_of(uri)}
        assert shown.keys() == own.keys() and len(shown) == 4
        for run_id, run in shown.items():
            assert run.data.to_dictionary() == own[run_id].data.to_dictionary()
            assert run.info.artifact_uri == own[run_id].info.artifact_uri
        experiments = {run.info.experiment_id for run in shown.values()}
        assert len(experiments) == 2
        plans = [replace(make_plan(), created=f"{y}-11-21T09:00:00+00:00") for y in (2026, 2027)]
        seen = addresses_of(client(uri), plans)
        assert len(seen) == 2 * 2 + 1 and "compare-experiments" in seen["all of them"]
    assert [(folder / MLFLOW_FILE).read_bytes() for folder in folders] == before
    assert not place.exists()


def test_models_of_one_name_are_all_there_with_their_aliases(folders):
    with united(folders) as place:
        mlflow = client(f"sqlite:///{place / MLFLOW_FILE}")
        names = {model.name for model in mlflow.search_registered_models()}
        assert names == {MODEL, f"{MODEL} ({folders[1].name}, 2)"}
        sources = {mlflow.get_model_version_by_alias(n, "champion").source for n in names}
        assert len(sources) == 2


def test_a_database_that_names_foreign_files_is_not_shown_among_others(folders, tmp_path):
    stranger = tmp_path / "stranger"
    shutil.copytree(folders[1], stranger)
    uri = f"sqlite:///{stranger / MLFLOW_FILE}"
    store = client(uri)._tracking_client.store
    with store.ManagedSessionMaker() as session:
        from sqlalchemy import text

        session.execute(text("UPDATE runs SET artifact_uri = 'file:///etc'"))
    foreign = pytest.raises(ValueError, match=r"lead out of the folder.*file:///etc")
    with foreign, united([folders[0], stranger]):
        pass


def copy_with(folders: list[Path], place: Path, *statements: str) -> Path:
    """The second sweep, with something done to its database."""
    shutil.copytree(folders[1], place)
    with closing(sqlite3.connect(place / MLFLOW_FILE)) as database, database:
        for statement in statements:
            database.execute(statement)
    set_addresses(place / MLFLOW_FILE, place / "mlartifacts")
    return place


def test_experiments_that_a_person_made_beside_a_sweep_keep_apart(folders, tmp_path):
    place = copy_with(folders, tmp_path / "more")
    for name in ("notes", "more notes"):
        client(f"sqlite:///{place / MLFLOW_FILE}").create_experiment(
            name, artifact_location=(place / "mlartifacts" / name).as_uri()
        )
    with united([folders[0], place]) as both:
        found = client(f"sqlite:///{both / MLFLOW_FILE}").search_experiments()
        assert {"notes", "more notes"} < {experiment.name for experiment in found}
        assert len({experiment.experiment_id for experiment in found}) == 5


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE latest_metrics", "cannot be shown: no such table: other.latest_metrics"),
        ("DROP TABLE alembic_version", "cannot be shown: no such table: other.alembic_version"),
        ("UPDATE alembic_version SET version_num = 'x'", "tables of another MLflow"),
    ],
)
def test_a_database_that_is_not_as_the_others_is_named(folders, tmp_path, statement, told):
    place = copy_with(folders, tmp_path / "other", statement)
    with pytest.raises(ValueError, match=f"{place}.*{told}"), united([folders[0], place]):
        pass


def test_a_file_that_is_no_database_is_named_by_its_folder(folders, tmp_path):
    (tmp_path / MLFLOW_FILE).write_bytes(b"no database" * 100)
    named = pytest.raises(ValueError, match=f"^{tmp_path}.*not a database")
    with named, united([folders[0], tmp_path]):
        pass


def test_no_sweep_adds_values_to_the_runs_of_another(folders, tmp_path):
    run = runs_of(f"sqlite:///{folders[0] / MLFLOW_FILE}")[0].info.run_id
    place = copy_with(
        folders,
        tmp_path / "stranger",
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
        f"VALUES ('val_accuracy', 1, 9, '{run}', 9, 0)",
    )
    with pytest.raises(ValueError, match=f"{place}.*{run}"), united([folders[0], place]):
        pass

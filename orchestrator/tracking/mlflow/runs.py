"""The runs of one sweep in MLflow: what a tracker must be able to do, put together."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import SweepPlan, TaskPlan
from orchestrator.support.commit_points import commit_point
from orchestrator.tracking.backend import (
    MissingFile,
    RunContent,
    RunFiles,
    RunKey,
    ShownRun,
    Written,
)
from orchestrator.tracking.content import STUDY_TAG, TRIAL_TAG
from orchestrator.tracking.mlflow.artifacts import missing, upload, uploaded
from orchestrator.tracking.mlflow.experiment import find_experiment, open_experiment
from orchestrator.tracking.mlflow.known_runs import KnownRun, list_runs, own_runs
from orchestrator.tracking.mlflow.places import sentence, settle
from orchestrator.tracking.mlflow.registry import (
    model_files,
    model_name,
    register_winner,
    restore_models,
)
from orchestrator.tracking.mlflow.store import artifact_location, open_client
from orchestrator.tracking.mlflow.write_run import (
    OLDER_STATUS,
    STATUS,
    as_mlflow_takes_it,
    create_run,
    remove_passed_tags,
    renew_note,
    write_into,
)
from orchestrator.training.objective import METRICS, TOP1

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

DATASET_TAG = "orchestrator.dataset"
DATASET_DIGEST_CHARACTERS = 36
"""MLflow takes no longer ones."""


class MLflowRuns:
    """Each trial and each study in the one run that is its own for ever."""

    def __init__(self, plan: SweepPlan, uri: str, folder: Path | None) -> None:
        self._plan = plan
        self._uri = uri
        self._artifacts = artifact_location(uri, folder)
        self._client_or_none: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[RunKey, KnownRun] | None = None
        self._doubles: list[str] = []

    @property
    def _client(self) -> "MlflowClient":
        if self._client_or_none is None:
            self._client_or_none = open_client(self._uri)
        return self._client_or_none

    def connect(self) -> None:
        if self._runs is not None:
            return
        if changed := self.settle():
            logger.warning("MLflow: %s", changed)
        self._experiment_id = open_experiment(self._client, self._plan, self._artifacts)
        self._runs, self._doubles = list_runs(self._client, self._experiment_id)

    def disconnect(self) -> None:
        self._runs = None

    def settle(self) -> str | None:
        changed = settle(self._uri, self._plan)
        return f"{sentence(changed)}; set to this folder" if changed else None

    def write_run(self, content: RunContent) -> Written:
        assert self._runs is not None, "connect() comes first"
        parent = None if content.parent is None else self._run(content.parent).run_id
        content = as_mlflow_takes_it(content, parent)
        created = content.key not in self._runs
        if created:
            self._runs[content.key] = create_run(self._client, self._experiment_id, content)
        run = self._run(content.key)
        if run.deleted:
            return "deleted"
        commit_point("before tracking")
        changed = write_into(self._client, run, content)
        commit_point("after tracking")
        remove_passed_tags(self._client, run, content)
        if content.note is not None:
            renew_note(self._client, run, content.note)
        return "created" if created else "updated" if changed else "unchanged"

    def write_files(self, key: RunKey, files: RunFiles) -> None:
        run = self._run(key)
        if not run.deleted:
            upload(self._client, run, files)

    def write_dataset(self, key: RunKey, task: TaskPlan) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run = self._run(key)
        if run.deleted or run.tags.get(DATASET_TAG) == task.fingerprint:
            return
        shape = {"classes": task.num_classes, "train": task.num_train, "val": task.num_val}
        dataset = Dataset(
            name=task.name,
            digest=task.fingerprint[:DATASET_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": task.root}),
            profile=json.dumps(shape),
        )
        context = [InputTag("mlflow.data.context", "search")]
        self._client.log_inputs(run.run_id, [DatasetInput(dataset, context)])
        self._client.set_tag(run.run_id, DATASET_TAG, task.fingerprint, synchronous=True)
        run.tags[DATASET_TAG] = task.fingerprint

    def delete_doubles(self) -> int:
        for run_id in self._doubles:
            self._client.delete_run(run_id)
        count, self._doubles = len(self._doubles), []
        return count

    def register(self, key: RunKey, bundle: Path) -> None:
        run = self._run(key)
        if not run.deleted:
            name = model_name(self._plan.name, self._plan.study(key[0]).task)
            register_winner(self._client, run.run_id, name, bundle)

    def restore_models(self, key: RunKey, bundles: Mapping[str, Path]) -> int:
        run = self._run(key)
        return 0 if run.deleted else restore_models(self._client, run.run_id, bundles)

    def shown_runs(self) -> Iterator[ShownRun]:
        experiment = find_experiment(self._client, self._plan)
        if experiment is not None:
            yield from map(self._shown, own_runs(self._client, experiment.experiment_id))

    def _shown(self, run: "Run") -> ShownRun:
        tags = run.data.tags
        # A run of before metrics had names is about the default, and so is one that anybody marked.
        key = METRICS.get(tags.get("metric", ""), TOP1).key
        number, deleted = tags.get(TRIAL_TAG, ""), run.info.lifecycle_stage == "deleted"
        state = tags.get("state", "") if number else "study"
        if number and run.info.status not in (STATUS.get(state), OLDER_STATUS.get(state)):
            state = f"{state} with status {run.info.status}"
        return ShownRun(
            study=tags[STUDY_TAG],
            number=number,
            state=state,
            val_accuracy=run.data.metrics.get(f"val_{key}"),
            test_accuracy=run.data.metrics.get(f"test_{key}"),
            deleted=deleted,
            missing=() if number or deleted else self._missing(run),
        )

    def _missing(self, run: "Run") -> list[MissingFile]:
        """Files that the run of a study should have by its tags, and models of it."""
        models = model_files(self._client, run.info.run_id)
        names = missing(self._client, run.info.run_id, [*uploaded(run), *models])
        return [MissingFile(name=name, bundle=models.get(name)) for name in names]

    def _run(self, key: RunKey) -> KnownRun:
        assert self._runs is not None, "connect() comes first"
        return self._runs[key]

"""The files of a run: uploaded once, and again when they changed or are gone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.backend import RunFiles
from orchestrator.tracking.mlflow.known_runs import KnownRun
from orchestrator.tracking.study_files import BEST, IMPORTANCE, PAGE, SPACE, names_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def upload(client: "MlflowClient", run: KnownRun, files: RunFiles) -> None:
    """Upload these files, unless they are there already."""
    tag = _digest_tag(files.kind)
    if run.tags.get(tag) == files.digest and not missing(client, run.run_id, list(files.sources)):
        return
    for name, source in files.sources.items():
        if isinstance(source, Path):
            folder = name.rpartition("/")[0]
            client.log_artifact(run.run_id, str(source), folder or None)
        else:
            client.log_text(run.run_id, source(), name)
    client.set_tag(run.run_id, tag, files.digest, synchronous=True)
    run.tags[tag] = files.digest


def missing(client: "MlflowClient", run_id: str, names: Sequence[str]) -> list[str]:
    """Those of the artifacts of a run that are not there, or empty."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
    there = {
        entry.path
        for folder in folders
        for entry in client.list_artifacts(run_id, folder or None)
        if entry.is_dir or entry.file_size
    }
    return [name for name in names if name not in there]


def uploaded(run: "Run") -> list[str]:
    """The names of the files that were uploaded to the run of a study, by its tags."""
    tags = run.data.tags
    kinds = [kind for kind in (SPACE, IMPORTANCE, PAGE, BEST) if _digest_tag(kind) in tags]
    return names_of(kinds, tags.get("task", ""))


def _digest_tag(kind: str) -> str:
    return f"orchestrator.{kind}"

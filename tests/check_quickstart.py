"""Looks at what `make quickstart` left behind: `python tests/check_quickstart.py [SWEEP]`."""

import sys
from collections import Counter
from pathlib import Path

import mlflow
import pyarrow.parquet as pq

from orchestrator.bundle.bundle import load_bundle, read_bundle
from orchestrator.data.cache import default_cache_root


def check(folder: Path) -> None:
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    studies = {row["study"] for row in rows}
    states = Counter(row["state"] for row in rows)
    print(f"{folder}: {len(rows)} trials of {len(studies)} studies, {dict(states)}")
    assert len(studies) == 6, studies
    assert set(states) == {"complete", "pruned"}, states
    assert states["pruned"] >= len(rows) // 4, "hardly anything was pruned"

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert Counter(run.data.tags["state"] for run in children) == states

    complete = [row for row in rows if row["state"] == "complete"]
    for task in sorted({row["task"] for row in rows}):
        path = folder / "best" / f"{task}.yaml"
        best = max(row["val_accuracy"] for row in complete if row["task"] == task)
        assert read_bundle(path).val_accuracy == best, task
        images = sorted(default_cache_root().glob(f"quickstart-*/{task}/images/val/*.png"))[:8]
        assert len(images) == 8
        predictions = load_bundle(path).predict(images)
        print(f"{task}: val {best:.3f}, {[p.class_name for p in predictions]}")
        assert all(0 < p.probability <= 1 for p in predictions)
    digits = max(r["val_accuracy"] for r in rows if r["task"] == "digits")
    assert digits > 0.9, "adapting to handwritten digits did not work"


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    newest = sorted(Path("sweeps").glob("quickstart-*"))[-1:]
    check((given or newest)[0])

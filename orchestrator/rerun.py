"""An exported configuration, trained again from its description alone."""

from dataclasses import replace
from pathlib import Path

from orchestrator.backbone import image_transform
from orchestrator.bundle import Bundle
from orchestrator.data.cache import ImageCache, task_fingerprint
from orchestrator.plan import PrunerPlan
from orchestrator.residents import Residents
from orchestrator.suites import load_suite
from orchestrator.trial import TrialContext, run_trial


def train_again(bundle: Bundle, *, data: Path | None, weights: Path | None) -> float:
    """Validation accuracy after the last epoch; on the same machine equal to the recorded one.

    ValueError if images or weights are not those that the bundle was trained on.
    """
    if data is None:
        suite = load_suite(
            bundle.suite,
            data_root=Path(bundle.data_root) if bundle.data_root else None,
            tasks=[bundle.task],
            seed=bundle.data_seed,
        )
    else:
        suite = load_suite(str(data), tasks=[bundle.task], seed=bundle.data_seed)
    (task,) = suite.tasks
    backbone = bundle.backbone
    if weights is not None:
        backbone = replace(backbone, weights=str(weights.absolute()))
    found = task_fingerprint(task, image_transform(backbone))
    if found != bundle.data_fingerprint:
        raise ValueError(
            f"{task.root}: not the images that {bundle.task} was trained on "
            f"(fingerprint {found[:12]}, recorded {bundle.data_fingerprint[:12]})"
        )
    cache = ImageCache()
    context = TrialContext(
        backbone=backbone,
        tasks={task.name: task.for_search()},
        fingerprints={task.name: found},
        pruner=PrunerPlan(name="none", first_rung_epochs=1),
        cache_folder=str(cache.root),
        device="cpu" if bundle.device == "cpu" else "cuda",
        cpu_threads=bundle.cpu_threads,
    )
    _, rows = run_trial(bundle.trial, context, Residents(8 * 2**30))
    return rows[-1]["val_accuracy"]

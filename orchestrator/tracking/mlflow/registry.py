"""Winners as registered models of MLflow, which `mlflow models predict` and `serve` can run."""

import contextlib
import hashlib
import io
import re
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from PIL import Image

from orchestrator.bundle.bundle import Bundle, read_bundle
from orchestrator.plan.final_protocol import times_opened
from orchestrator.support.counted import counted
from orchestrator.support.foreign_text import markdown
from orchestrator.tracking.mlflow.artifacts import missing
from orchestrator.tracking.study_files import bundle_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "orchestrator.digest"
ALIASES = {"search": "best-val", "final": "champion"}
"""What the newest winner of each stage is called: the best on validation, and what `finalize` chose
on folds. Nothing else moves them."""
_SPECIAL = re.compile(r"^\.|[^\w .\-]")
_SPECIAL_OR_DOT = re.compile(r"[^\w \-]")
_MAX_NAME_CHARACTERS = 250
FOLDER_PREFIX = "model-"
MODEL_FILE = "MLmodel"
"""In the folder of every model."""
MODEL_CODE = Path(__file__).with_name("model.py")


def model_name(sweep: str, task: str) -> str:
    """The name of a task's winner as MLflow takes it; two tasks never share one.

    MLflow refuses / and :, and in its addresses and filters ?, #, % and quotes mean something. What
    is neither letter, digit nor one of ` .-_` is written as ~ and its bytes in hexadecimal, and so
    is a dot of the task, since a dot stands before the task.
    """
    name = f"{_SPECIAL.sub(_as_hexadecimal, sweep)}.{_SPECIAL_OR_DOT.sub(_as_hexadecimal, task)}"
    if len(name) <= _MAX_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _MAX_NAME_CHARACTERS - 18]}~~{digest}"


def _as_hexadecimal(found: re.Match[str]) -> str:
    return "".join(f"~{byte:02X}" for byte in found[0].encode(errors="surrogateescape"))


def register_winner(client: "MlflowClient", run_id: str, name: str, bundle: Path) -> bool:
    """Register the bundle as the newest version of model `name`; False if it is there already.

    The alias of its stage is set to that version in either case.
    """
    from mlflow.exceptions import MlflowException

    description = read_bundle(bundle)
    digest = bundle_digest(bundle)
    with contextlib.suppress(MlflowException):  # it is there: of this sweep, or made by a person
        client.create_registered_model(name, description=f"{_what(description)}. {_ABOUT_ALIASES}")
    known = client.search_model_versions(f"name = '{name}'")
    same = [version.version for version in known if version.tags.get(DIGEST_TAG) == digest]
    if same:
        _point(client, name, ALIASES[description.stage], same[0])
        return False
    _log_model(client, run_id, bundle)
    artifacts = client.get_run(run_id).info.artifact_uri
    made = client.create_model_version(
        name,
        source=f"{artifacts}/{model_folder(digest)}",
        run_id=run_id,
        tags={DIGEST_TAG: digest, **_tags(description)},
        description=f"{_how_chosen(description)} {_what(description)}.",
    )
    _point(client, name, ALIASES[description.stage], made.version)
    return True


_ABOUT_ALIASES = (
    "`champion` is the version that `finalize` chose, on folds of all labelled images; `best-val` "
    "the best on validation in the search."
)


def _point(client: "MlflowClient", name: str, alias: str, version: str) -> None:
    # The registry tells versions now as a text, now as a number.
    if str(client.get_registered_model(name).aliases.get(alias)) != str(version):
        client.set_registered_model_alias(name, alias, str(version))


def model_folder(digest: str) -> str:
    """The folder of a bundle's model among the artifacts of its run, by `bundle_digest`."""
    return f"{FOLDER_PREFIX}{digest}"


def restore_models(client: "MlflowClient", run_id: str, bundles: Mapping[str, Path]) -> int:
    """Write the files of a run's models again that are gone; how many models.

    `bundles` are those that are there, by `bundle_digest`.
    """
    restored = 0
    for name, digest in model_files(client, run_id).items():
        if digest in bundles and missing(client, run_id, [name]):
            _log_model(client, run_id, bundles[digest])
            restored += 1
    return restored


def model_files(client: "MlflowClient", run_id: str) -> dict[str, str]:
    """A file of each model of ours that a run has, by name, and the `bundle_digest` of each."""
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    digests = [version.tags.get(DIGEST_TAG) for version in versions]
    return {f"{model_folder(digest)}/{MODEL_FILE}": digest for digest in digests if digest}


def _log_model(client: "MlflowClient", run_id: str, bundle: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="orchestrator-model-") as scratch:
        save_as_model(bundle, Path(scratch) / model_folder(bundle_digest(bundle)))
        client.log_artifacts(run_id, scratch)


def save_as_model(bundle: Path, folder: Path) -> None:
    """Write the bundle as an MLflow model with signature and input example."""
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    size = read_bundle(bundle).backbone.image_size
    example = io.BytesIO()
    Image.new("RGB", (size, size), (127, 127, 127)).save(example, format="PNG")
    packages = ("visual-prompt-orchestrator", "torch", "torchvision", "timm", "safetensors")
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(MODEL_CODE),
        artifacts={"bundle": str(bundle), "tensors": str(bundle.with_suffix(".safetensors"))},
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, "image")]),
            outputs=Schema(
                [
                    ColSpec(DataType.long, "label"),
                    ColSpec(DataType.string, "class_name"),
                    ColSpec(DataType.double, "probability"),
                ]
            ),
        ),
        input_example=pandas.DataFrame({"image": [example.getvalue()]}),
        pip_requirements=[f"{package}=={metadata.version(package)}" for package in packages],
        model_config={"weights": None, "device": "cpu"},
    )


def _what(bundle: Bundle) -> str:
    return (
        f"{bundle.trial.method} on {markdown(bundle.task)}: classifies images into "
        f"{bundle.num_classes} classes, {bundle.num_tuned_parameters:,} tuned parameters on "
        f"{markdown(bundle.backbone.name)}"
    )


def _how_chosen(bundle: Bundle) -> str:
    """The number by which it was chosen first, and never the test's."""
    unit = bundle.objective.unit
    if bundle.stage == "search":
        return f"Best on validation: {100 * (bundle.val_accuracy or 0.0):.1f} {unit}."
    scores = list(bundle.test_accuracies.values())
    spread = f" ± {100 * stdev(scores):.1f}" if len(scores) > 1 else ""
    return (
        f"Chosen by `finalize` on folds, retrained on train and val (seed {bundle.trial.seed}). "
        f"Test: {100 * fmean(scores):.1f}{spread} {unit} over {counted(len(scores), 'seed')}. "
        f"{times_opened(bundle.num_openings)}"
    )


def _tags(bundle: Bundle) -> dict[str, str]:
    tags = {
        "task": bundle.task,
        "method": bundle.trial.method,
        "backbone": bundle.backbone.name,
        "sweep": bundle.sweep,
        "trial": str(bundle.trial.number),
        "stage": bundle.stage,
        "metric": bundle.metric,
    }
    if bundle.val_accuracy is not None:
        tags[f"val_{bundle.objective.key}"] = f"{bundle.val_accuracy:.4f}"
    if bundle.test_accuracies:
        mean = sum(bundle.test_accuracies.values()) / len(bundle.test_accuracies)
        tags[f"mean_test_{bundle.objective.key}"] = f"{mean:.4f}"
        tags["test_openings"] = str(bundle.num_openings)
    return tags

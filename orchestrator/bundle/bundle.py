"""A bundle: the configuration of a trained trial and its tuned weights, as two files.

    from orchestrator.bundle import load_bundle
    predictions = load_bundle("best/digits.yaml").predict(["image.png"])

Loading needs torch, timm, safetensors and this distribution: neither Ray nor MLflow.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from methods import METHODS
from methods.catalogue import declaration
from methods.recipe import Recipe
from orchestrator.bundle.card import model_card
from orchestrator.data.split import SplitRule
from orchestrator.support.checksum import sha256_of
from orchestrator.support.commit_points import commit_point
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import Between, Entries, Name, OneOf, Sha256, read_as, shown
from orchestrator.support.formats import Format
from orchestrator.support.phases import phase
from orchestrator.support.regular_file import opened_regular, read_regular
from orchestrator.support.whole_file import whole_file
from orchestrator.support.yaml_io import dump_yaml, read_yaml
from orchestrator.training.backbone import BackbonePlan, load_planned_backbone
from orchestrator.training.config import TrialConfig, build, check_types, split_config
from orchestrator.training.named_methods import use_named, use_planned
from orchestrator.training.numerics import Engine
from orchestrator.training.objective import (
    DEFAULT_METRIC,
    MetricName,
    Objective,
    Score,
    objective_named,
)
from orchestrator.training.own_methods import OwnMethod

if TYPE_CHECKING:  # a file that is no bundle is told without torch
    from orchestrator.bundle.prompted_model import PromptedModel


def _with_its_metric(bundle: dict[str, Any]) -> dict[str, Any]:
    """Format 2: a bundle names the metric of its accuracies, which was top-1 before."""
    return {"metric": DEFAULT_METRIC, **bundle}


FORMAT = Format("a bundle", (_with_its_metric,))
DEVICES = ("cpu", "cuda")

BUNDLE_SUFFIXES = (".yaml", ".safetensors", ".md", ".sha256")
"""Description, tuned weights, model card, checksums: one of each per task."""

MOST_TENSOR_BYTES = 16 * 2**30
"""The most bytes that tuned weights may have: all of the largest plain ViT of timm, in float32, are
7 GB."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `<task>.yaml` says: enough to run the trial again and to load its weights."""

    task: Annotated[str, Name()]
    suite: str
    data_root: str | None
    data_seed: int
    class_names: Annotated[tuple[str, ...], Entries(2)]
    data_fingerprint: str
    backbone: BackbonePlan
    trial: TrialConfig
    recipe: Mapping[str, Any]
    """The recipe as it was trained, for people to read: the method's published recipe with the
    trial's values."""
    val_accuracy: Score | None
    """The score on val in the search, by `metric`; None after training on train and val
    together."""
    num_tuned_parameters: Annotated[int, Between(1, 10**12)]
    device: str
    cpu_threads: Annotated[int, Between(1, 4096)]
    tensors_sha256: Annotated[str, Sha256()]
    sweep: str
    versions: Mapping[str, str]
    data_split: tuple[float, float, float] | None = None
    """Fractions of train, val and test that the user chose for a split of ours."""
    copies_together: bool = False
    """Whether that split counts exact copies once: not in bundles of older versions."""
    stage: Annotated[str, OneOf(("search", "final"))] = "search"
    """search: trained on train. final: the winner, trained on train and val, tested once."""
    test_accuracies: Mapping[int, Score] = field(default_factory=dict)
    """The score on test of each seed of the final stage, by `metric`; these are the prompts of the
    seed in `trial`."""
    seed_rule: str = ""
    """How that seed was chosen; empty: by an older version, the median on test."""
    round: Annotated[int, Between(1, 10**6)] = 1
    """Which round of the final stage this is from; 2 and more: it was done again."""
    num_openings: Annotated[int, Between(1, 10**6)] = 1
    """In how many rounds of the final stage the test split was opened."""
    num_images: Annotated[int, Between(1, 10**9)] | None = None
    """Val images that `val_accuracy` was measured on, or test images; None in older bundles."""
    majority: Annotated[int, Between(1, 10**9)] | None = None
    """How many of these images belong to the most frequent class."""
    metric: MetricName = DEFAULT_METRIC
    """Name of the objective it was trained for, and what its accuracies are."""
    baseline: Score | None = None
    """What always answering one class gives; None: `majority` of `num_images`."""
    effective_images: Annotated[float, Between(1e-9, 10**9)] | None = None
    """As many images of a top-1 accuracy would tell as much; None: `num_images`."""
    cross_validation: Score | None = None
    """Of the final stage: its mean over folds of train and val and over their seeds, as the best of
    the finalists; None in older bundles."""
    cross_validation_interval: tuple[Score, Score] | None = None
    """95 %, of that mean."""
    engine: Engine = field(default_factory=Engine)
    """How it was computed in training; predictions are computed in float32."""
    own_method: OwnMethod | None = None
    """The method with its source, if it does not come with this package."""

    @property
    def split_rule(self) -> SplitRule:
        """How the task was split, where it came without splits."""
        return SplitRule(
            seed=self.data_seed,
            fractions=self.data_split,
            copies_together=self.copies_together,
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def objective(self) -> Objective:
        return objective_named(self.metric)

    @property
    def majority_share(self) -> float | None:
        """What always answering the most frequent class gives."""
        if self.baseline is not None:
            return self.baseline
        return self.majority / self.num_images if self.majority and self.num_images else None


def save_bundle(bundle: Bundle, folder: Path, tensors: Path) -> tuple[Path, ...]:
    """Write `<task>.yaml`, `.safetensors`, `.md` (a model card) and `.sha256` (checksums).

    Each is complete or not there at all; the description comes first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{bundle.task}.safetensors"
    _write(weights, read_regular(tensors, most_bytes=MOST_TENSOR_BYTES, follow_link=False))
    document = FORMAT.stamped(asdict(bundle))
    if bundle.own_method is None:
        del document["own_method"]  # as in bundles of before
    else:
        document["own_method"]["source"] = list(bundle.own_method.source)
    document["class_names"] = list(bundle.class_names)
    document["data_split"] = list(bundle.data_split) if bundle.data_split else None
    for name in ("mean", "std"):
        document["backbone"][name] = list(document["backbone"][name])
    description = folder / f"{bundle.task}.yaml"
    _write(description, dump_yaml(document).encode())
    card = folder / f"{bundle.task}.md"
    method = declaration(bundle.trial.method)
    _write(card, model_card(bundle, method.title, method.paper).encode())
    checked = (description, weights, card)
    sums = folder / f"{bundle.task}.sha256"
    _write(sums, "".join(map(_checksum, checked)).encode())
    return *checked, sums


def read_bundle(path: Path, *, methods: Sequence[str | Path] = ()) -> Bundle:
    """The description alone. ValueError if the file is no bundle of ours.

    `methods` are Python files of methods that do not come with this package: they are run.
    """
    named = [use_named(method) for method in methods]
    document = FORMAT.up_to_date(read_yaml(path), source=str(path))
    bundle = read_as(Bundle, document, source=str(path))
    if bundle.own_method is not None:
        own = {bundle.own_method.name: bundle.own_method}
        if bundle.trial.method not in own:
            raise ValueError(f"{path}: own_method: is not the {bundle.trial.method} of its trial")
        use_planned(own, source=f"{path}: own_method", named=named)
    _check_consistent(bundle, str(path))
    return bundle


def _check_consistent(bundle: Bundle, source: str) -> None:
    """What its parts say of each other, and the configuration."""
    try:
        bundle.split_rule  # noqa: B018
    except ValueError as error:
        raise ValueError(f"{source}: data_split: {error}") from error
    trial = bundle.trial
    if trial.method not in METHODS:
        raise ValueError(f"{source}: trial.method: {unknown('method', trial.method, METHODS)}")
    if trial.task != bundle.task:
        raise ValueError(
            f"{source}: trial.task: expected {bundle.task!r} as `task` says, found {trial.task!r}"
        )
    check_types(trial.method, trial.config, source=f"{source}: trial.config")
    build(trial.method, trial.config, source=f"{source}: trial.config")
    read_as(Recipe, bundle.recipe, source=f"{source}: recipe")
    if bundle.stage == "search" and bundle.val_accuracy is None:
        raise ValueError(f"{source}: val_accuracy: expected a number, since `stage` is search")
    if bundle.stage == "final" and trial.seed not in bundle.test_accuracies:
        raise ValueError(
            f"{source}: test_accuracies: expected the one of seed {trial.seed} among them, since "
            "`stage` is final"
        )


def load_bundle(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = "cpu",
    methods: Sequence[str | Path] = (),
) -> "PromptedModel":
    """The model of `<task>.yaml` and the safetensors file beside it.

    `weights` is where the frozen backbone's file is now, if not where it was; it must have the
    content that the bundle was trained on. `device` None is a GPU if there is one. `methods` are
    Python files of methods that do not come with this package: they are run.
    """
    path = Path(path)
    bundle = read_bundle(path, methods=methods)
    tensors = path.with_suffix(".safetensors")
    try:
        with opened_regular(tensors, most_bytes=MOST_TENSOR_BYTES) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{tensors}: the tuned weights of {path.name} are missing") from None
    if found != bundle.tensors_sha256:
        raise ValueError(f"{tensors}: is not the file that {path.name} was written with")
    plan = bundle.backbone
    if weights is not None:
        plan = replace(plan, weights=str(Path(weights).expanduser().absolute()))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from methods import restore
    from orchestrator.bundle.prompted_model import PromptedModel

    device = _found_device(device)
    with phase(f"loading the backbone {plan.name}"):
        backbone = load_planned_backbone(plan, device)
    own, _ = split_config(bundle.trial.method, bundle.trial.config)
    try:
        state = load_file(tensors)
    except (SafetensorError, KeyError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{tensors}: is not a safetensors file: {error}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{tensors}: {shown(name)} holds values that are no finite numbers")
    try:
        model = restore(
            backbone.vit,
            METHODS[bundle.trial.method](**own),
            state,
            num_classes=bundle.objective.head_width(bundle.num_classes),
            recipe=Recipe(**bundle.recipe),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return PromptedModel(bundle, model.to(device), device)


def _found_device(asked: str | None) -> str:
    """`cpu`, `cuda` or `cuda:1`; None is a GPU if there is one."""
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(unknown("device", asked, DEVICES))
    num_found = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= num_found:
        raise ValueError(
            f"{asked}: there are {num_found or 'no'} CUDA devices here; use --device cpu, or leave "
            "--device out"
        )
    return asked


def _checksum(file: Path) -> str:
    """A line as sha256sum writes and reads it, which marks a name with a backslash."""
    escaped = file.name.replace("\\", "\\\\")
    return f"{chr(92) if escaped != file.name else ''}{sha256_of(file)}  {escaped}\n"


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
        commit_point("half bundle")

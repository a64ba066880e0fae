"""What a bundle says about itself to people, in the form that model hubs read."""

import json
import shlex
from statistics import fmean
from typing import TYPE_CHECKING, Any

from orchestrator.plan.final_protocol import MEDIAN_SEED, times_opened
from orchestrator.support.foreign_text import code, markdown
from orchestrator.support.uncertainty import EXPLAINED, accuracy_text, folds_text, seeds_text
from orchestrator.support.yaml_io import dump_yaml
from orchestrator.training.objective import DEFAULT_METRIC

if TYPE_CHECKING:
    from orchestrator.bundle.bundle import Bundle
    from orchestrator.training.backbone import BackbonePlan

LARGEST_LIST = 20


def model_card(bundle: "Bundle", title: str, paper: str) -> str:
    """Markdown behind a YAML head, as hubs show it. `title` and `paper` are the method's."""
    backbone, method = bundle.backbone, bundle.trial.method
    description = code(f"{bundle.task}.yaml")
    share = 100 * bundle.num_tuned_parameters / backbone.num_parameters
    return "\n".join(
        [
            "---",
            dump_yaml(_head(bundle)).rstrip(),
            "---",
            "",
            f"# {method} on {markdown(bundle.task)}",
            "",
            f"Classifies images into {bundle.num_classes} classes with a frozen "
            f"{code(backbone.name)} and {bundle.num_tuned_parameters:,} tuned parameters "
            f"({share:.2f} % of the backbone's {backbone.num_parameters:,}), head included. "
            f"The method is [{markdown(title)}]({paper}).",
            "",
            "## Accuracy",
            "",
            *_accuracy(bundle),
            "",
            "## Use",
            "",
            "```python",
            "from orchestrator.bundle import load_bundle",
            "",
            f"predictions = load_bundle({_arguments(bundle)}).predict([{_text('image.png')}])",
            "```",
            "",
            f"The files {description} and {code(f'{bundle.task}.safetensors')} stay side by side; "
            f"{_command('sha256sum', '-c', f'{bundle.task}.sha256')} checks them. The backbone's "
            "weights are not among them: "
            + _whence(backbone)
            + f". They are checked (sha256 of the tensors {backbone.weights_sha256[:12]}...)."
            + _own_method(bundle),
            "",
            f"Images are resized to {backbone.image_size} pixels ({backbone.resize}, "
            f"{backbone.interpolation}) and normalised with mean {list(backbone.mean)} and "
            f"standard deviation {list(backbone.std)}.",
            "",
            "## Classes",
            "",
            _classes(bundle),
            "",
            "## Training",
            "",
            f"Trial #{bundle.trial.number} of study {code(bundle.trial.study)} in sweep "
            f"{code(bundle.sweep)}, seed {bundle.trial.seed}, trained on "
            f"{'train and val' if bundle.stage == 'final' else 'train'} on "
            f"{markdown(bundle.device)}. "
            f"{_command('orchestrator', 'train', f'{bundle.task}.yaml')} repeats it.",
            "",
            "| hyper-parameter | value |",
            "|---|---|",
            *(
                f"| {markdown(name)} | {markdown(str(value))} |"
                for name, value in bundle.trial.config.items()
            ),
            "",
        ]
    )


def _whence(backbone: "BackbonePlan") -> str:
    if backbone.weights is not None:
        return "give their file as `weights`"
    if backbone.revision is not None:
        return f"they are fetched from the model hub, commit {backbone.revision}"
    return "timm fetches them, or they come with the package"


def _head(bundle: "Bundle") -> dict[str, Any]:
    name, value = _headline(bundle)
    return {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "base_model": bundle.backbone.name.removeprefix("hf-hub:").partition("@")[0],
        "tags": ["visual-prompt-tuning", bundle.trial.method, "parameter-efficient-fine-tuning"],
        "model-index": [
            {
                "name": f"{bundle.trial.method} on {bundle.task}",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": bundle.task, "type": bundle.task},
                        "metrics": [
                            {"type": bundle.objective.key, "name": name, "value": round(value, 4)}
                        ],
                    }
                ],
            }
        ],
    }


def _headline(bundle: "Bundle") -> tuple[str, float]:
    words = bundle.objective.words
    if bundle.stage == "final":
        return f"test {words}, mean over seeds", fmean(bundle.test_accuracies.values())
    return f"validation {words}", bundle.val_accuracy or 0.0


def _accuracy(bundle: "Bundle") -> list[str]:
    sure, share = bundle.effective_images or bundle.num_images, _share(bundle)
    if bundle.stage != "final":
        accuracy, number = bundle.val_accuracy or 0.0, bundle.num_images
        told = f"{100 * accuracy:.1f}" if sure is None else accuracy_text(accuracy, sure)
        return [
            f"{told} {share} {_counted(number)}validation images{_error(told)}, which "
            "also chose this configuration among the trials of the search: an optimistic number. "
            f"It was not tested.{_majority(bundle)}{_explained(told)}"
        ]
    values = list(bundle.test_accuracies.values())
    told = seeds_text(values, sure)
    own = bundle.test_accuracies[bundle.trial.seed]
    return [
        f"{told} {share} {_counted(bundle.num_images)}test "
        f"images (mean and standard deviation over {len(values)} seeds, each tested once after the "
        f"last epoch).{_explained(told)}{_majority(bundle)} These are the "
        f"parameters of seed {bundle.trial.seed}, the "
        f"{markdown(bundle.seed_rule or MEDIAN_SEED)}, with {100 * own:.1f} %. "
        f"{times_opened(bundle.num_openings)}{_on_folds(bundle)}",
    ]


def _on_folds(bundle: "Bundle") -> str:
    told = folds_text(bundle.cross_validation, bundle.cross_validation_interval)
    if told is None:
        return ""
    return (
        f" On validation, as the mean over folds of train and val that chose it among the "
        f"finalists, it has {told} % (95 % interval). That may be a little high: the finalists are "
        "the best of the search on validation images that are part of the folds."
    )


def _share(bundle: "Bundle") -> str:
    """What the percent are of."""
    if bundle.metric == DEFAULT_METRIC:
        return "% of the"
    return f"% {bundle.objective.words} on the"


def _counted(number: int | None) -> str:
    return "" if number is None else f"{number:,} "


def _error(accuracy: str) -> str:
    return " (± standard error)" if "±" in accuracy else ""


def _explained(accuracy: str) -> str:
    """Where an interval stands in the place of ±."""
    return f" {EXPLAINED}" if "(" in accuracy else ""


def _majority(bundle: "Bundle") -> str:
    share = bundle.majority_share
    if share is None:
        return ""
    of_what = "% of them" if bundle.metric == DEFAULT_METRIC else bundle.objective.unit
    return f" Always answering the most frequent class gives {100 * share:.1f} {of_what}."


def _classes(bundle: "Bundle") -> str:
    names = [f"{label} {markdown(name)}" for label, name in enumerate(bundle.class_names)]
    more = len(names) - LARGEST_LIST
    shown = ", ".join(names[:LARGEST_LIST])
    return shown + (f", and {more} more in {code(f'{bundle.task}.yaml')}" if more > 0 else "")


def _arguments(bundle: "Bundle") -> str:
    """What `load_bundle` is called with: a method that is no part of the package is named."""
    own, path = bundle.own_method, _text(f"{bundle.task}.yaml")
    return path if own is None else f"{path}, methods=[{_text(f'{own.name}.py')}]"


def _own_method(bundle: "Bundle") -> str:
    own = bundle.own_method
    if own is None:
        return ""
    file, lines = code(f"{own.name}.py"), code(f"{bundle.task}.yaml")
    return (
        f" The method does not come with the package: {file} (sha256 {own.sha256[:12]}...) is run "
        f"where it is named; its lines stand in {lines} under `own_method`."
    )


def _text(text: str) -> str:
    """The text as a literal that Python reads back."""
    return json.dumps(text, ensure_ascii=False)


def _command(*words: str) -> str:
    """The text as one word of a shell."""
    return code(shlex.join(words))

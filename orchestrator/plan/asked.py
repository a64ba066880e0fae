"""What of a request is wrong by its options, names and lists: told before torch is imported.

No image is opened here, and nothing is built.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from methods import METHODS
from methods.timm_names import refuse_unknown_backbone
from methods.weights.kinds import refuse_absent
from orchestrator.data.forms import NAMING_IMAGES
from orchestrator.data.split import SplitRule, split_rule
from orchestrator.data.suites import PUBLISHED_SUITES, Suite, load_suite
from orchestrator.plan.allocation import ALLOCATIONS, GAIN, LEAST_TRIALS
from orchestrator.plan.backbone_arguments import check_arguments, parse_arguments
from orchestrator.plan.costs import second_objective
from orchestrator.plan.final_protocol import refuse_unsuited
from orchestrator.plan.metrics import metrics_by_task, metrics_of_suite, refuse_unknown_metrics
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.request import SweepRequest
from orchestrator.plan.samplers import SAMPLERS
from orchestrator.plan.space import SearchSpace, default_spaces, load_space, outline_space
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import MOST_BYTES_OF_A_NAME, why_no_name
from orchestrator.support.options import check_options
from orchestrator.support.phases import phase
from orchestrator.support.whole_file import ENDING_BYTES

QUICKSTART_METHODS = ("linear", "vpt_deep")
LONGEST_ENDING = len(".safetensors") + ENDING_BYTES
"""The longest ending of a file that is named after a task or study."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request names, as it was found."""

    suite: Suite
    metrics: Mapping[str, str]
    """By task."""
    rule: SplitRule


def look_at(request: SweepRequest, *, name: str, say: Callable[[str], None]) -> Asked:
    """ValueError names what is wrong; what is cheap to look at is looked at first.

    `name` is that of the sweep.
    """
    check_options(request)
    if request.sampler not in SAMPLERS:
        raise ValueError(unknown("value of --sampler", request.sampler, SAMPLERS))
    plan_pruner(request.pruner, request.pruner_options)
    second_objective(request.also)
    _check_allocation(request)
    spaces = [
        entry if isinstance(entry, SearchSpace) else load_space(str(entry), parse=outline_space)
        for entry in methods_of(request)
    ]
    if request.backbone is not None and all(space.method in METHODS.shipped for space in spaces):
        refuse_unknown_backbone(request.backbone)  # a method of one's own may bring a network
    arguments = parse_arguments(request.backbone_args or ())
    if request.backbone is not None:
        has_weights = request.weights is not None
        check_arguments(request.backbone, has_weights=has_weights, arguments=arguments)
    rule = split_rule(request.split_seed, request.split)
    refuse_unknown_metrics(request.metrics or ())
    if request.weights is not None:
        refuse_absent(request.weights)
    with phase(f"reading the lists and folders of {request.suite}"):
        suite = load_suite(request.suite, data_root=request.data, tasks=request.tasks, rule=rule)
    _say_unused_data(request, suite, say)
    _say_unused_rule(request, suite, say)
    _check_names(name, suite, spaces)
    _check_shares(request, len(suite.tasks) * len(spaces))
    if (request.backbone or suite.default_backbone) is None:
        raise ValueError(
            f"suite {request.suite!r} needs --backbone, the name of a network of timm "
            "(for example vit_base_patch16_224.orig_in21k)"
        )
    names = [task.name for task in suite.tasks]
    of_suite = metrics_of_suite(suite.root, names, all_tasks=request.tasks is None)
    metrics = metrics_by_task(request.metrics or (), names, of_suite=of_suite)
    if request.share_winners:
        _check_sharing(request, len(names))
    if request.final is not None:
        refuse_unsuited(suite.tasks, request.final)
    return Asked(suite=suite, metrics=metrics, rule=rule)


def methods_of(request: SweepRequest) -> Sequence[object]:
    """Names and paths of search spaces, or the spaces themselves."""
    if request.methods:
        names = [m.name if isinstance(m, SearchSpace) else str(m) for m in request.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"--method names one twice: {', '.join(names)}")
        return request.methods
    if request.suite == "quickstart":
        return QUICKSTART_METHODS
    return [space.name for space in default_spaces()]  # the best of a task includes its method


def _check_sharing(request: SweepRequest, num_tasks: int) -> None:
    if num_tasks < 2:
        raise ValueError(
            "--share-winners: there is one task, and winners are those of the sweep's other tasks; "
            "--warm-start SWEEP takes those of older sweeps"
        )
    if request.also:
        raise ValueError(
            "--share-winners: who wins is told by the score alone, and --also looks for what is "
            "best in two; leave out one of them"
        )


def _say_unused_data(request: SweepRequest, suite: Suite, say: Callable[[str], None]) -> None:
    is_used = request.suite in PUBLISHED_SUITES or any(
        task.layout in NAMING_IMAGES for task in suite.tasks
    )
    if request.data is not None and not is_used:
        say(f"--data changes nothing: the images of {request.suite} are where it is")


def _say_unused_rule(request: SweepRequest, suite: Suite, say: Callable[[str], None]) -> None:
    if (request.split or request.split_seed) and not any(task.split_rule for task in suite.tasks):
        given = {task.split_source or "as they lie in the folder" for task in suite.tasks}
        say(f"--split and --split-seed change nothing: all splits are {' or '.join(sorted(given))}")


def _check_allocation(request: SweepRequest) -> None:
    if request.allocation not in ALLOCATIONS:
        raise ValueError(unknown("value of --allocation", request.allocation, ALLOCATIONS))
    if request.allocation == GAIN and request.also:
        raise ValueError(
            "--allocation gain looks at the score alone, and would end studies whose Pareto front "
            "still grows: leave out --also, or take --allocation equal"
        )
    if request.allocation == GAIN and request.pruner_options.get("freeze"):
        raise ValueError(
            "--allocation gain judges a study by trials that ended, and with --freeze they wait "
            "until no other is left: leave out --freeze, or take --allocation equal"
        )
    if request.allocation == GAIN and (trials := num_trials_of(request)) <= LEAST_TRIALS:
        raise ValueError(
            f"--allocation gain: every study gets {LEAST_TRIALS} trials, so that of --trials "
            f"{trials} nothing is left to share: take more, or --allocation equal"
        )


def _check_shares(request: SweepRequest, num_studies: int) -> None:
    if request.allocation == GAIN and num_studies == 1:
        raise ValueError(
            "--allocation gain shares trials between studies, and this sweep has one (a search "
            "space on a task): name more tasks or methods, or take --allocation equal"
        )


def num_trials_of(request: SweepRequest) -> int:
    """Of each study, if its space has so many configurations."""
    return request.trials or (8 if request.suite == "quickstart" else 30)


def _check_names(sweep: str, suite: Suite, spaces: Sequence[SearchSpace]) -> None:
    """They stand in the names of files and in lines of tables."""
    named = [("--out", sweep), *(("space", space.name) for space in spaces)]
    named += [("task", task.name) for task in suite.tasks]
    for kind, name in named:
        if reason := why_no_name(name):
            raise ValueError(f"{kind} {name!r}: not a name for files: {reason}")
    for study in (f"{task.name}.{space.name}" for task in suite.tasks for space in spaces):
        if len(os.fsencode(study)) + LONGEST_ENDING > MOST_BYTES_OF_A_NAME:
            raise ValueError(
                f"study {study!r}: with its endings the names of its files would have more than "
                f"{MOST_BYTES_OF_A_NAME} bytes; give the task or the space a shorter name"
            )

"""What the user asks for, before anything is looked at: of a search, and of its last stage.

Every field with an `Option` is an option of the command and a keyword of `Sweep`. Nothing heavy is
imported here, so that `--help` answers at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from orchestrator.plan.allocation import ALLOCATIONS, EQUAL
from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.names import space_names, suite_names
from orchestrator.plan.pruners.options import DEFAULT, choices
from orchestrator.support.document import INT64, MOST_SEED
from orchestrator.support.options import Option

LARGEST = 1_000_000


@dataclass(frozen=True)
class SweepRequest:
    """What is to be searched: the options of `orchestrator sweep` that end in its plan.

    None: the default that suits suite and backbone.
    """

    suite: Annotated[
        str,
        Option(
            "quickstart, vtab, fgvc, a folder of images, a table of paths and labels (.csv ...), "
            "or a .yaml file that says all this.",
            "Data",
            positional=True,
            names=suite_names,
        ),
    ]
    _: KW_ONLY
    data: Annotated[
        Path | None,
        Option(
            "The folder that holds the folders of vtab and fgvc; of a table, the one that its "
            "paths are relative to.",
            "Data",
            default="$ORCHESTRATOR_DATA, then ./data",
        ),
    ] = None
    tasks: Annotated[
        Sequence[str] | None,
        Option(
            "Search these tasks only, with commas between them or given several times.",
            "Data",
            default="all of the suite",
            metavar="NAME,NAME",
            commas=True,
        ),
    ] = None
    methods: Annotated[
        Sequence[object] | None,
        Option(
            "What to search: a search space by name (`orchestrator spaces list`), a .yaml file, or "
            "a method of your own (my_method.py) beside its space (my_method.yaml). For several, "
            "put commas between them, or give it several times.",
            "Search",
            default="every prompt method; quickstart: linear, vpt_deep",
            flag="--method",
            metavar="NAME",
            names=space_names,
            commas=True,
        ),
    ] = None
    """In Python also a `SearchSpace`."""
    metrics: Annotated[
        Sequence[str] | None,
        Option(
            "What is measured and maximized: top1, or mean_per_class, in which every class counts "
            "alike. TASK=NAME for one task; may be given several times. A suite.yaml beside the "
            "tasks can say it, too (metrics: {TASK: NAME}).",
            "Search",
            default="top1",
            flag="--metric",
            metavar="[TASK=]NAME",
            commas=True,
            pairs=True,
        ),
    ] = None
    trials: Annotated[
        int | None,
        Option(
            "Trials of each study, which is one search space on one task.",
            "Search",
            default="30; quickstart: 8",
            at_least=1,
            at_most=10_000_000,
        ),
    ] = None
    allocation: Annotated[
        str,
        Option(
            "How studies share the trials. equal: --trials each. gain: as many together, from half "
            "to twice of that each, first where more are expected to gain most; a study ends when "
            "they are expected to gain little against the noise of its validation split.",
            "Search",
            choices=ALLOCATIONS,
        ),
    ] = EQUAL
    epochs: Annotated[
        int | None,
        Option(
            "Epochs of each trial; the warm-up keeps its share.",
            "Search",
            default="as the space says; quickstart: 20",
            at_least=1,
            at_most=LARGEST,
        ),
    ] = None
    seed: Annotated[
        int,
        Option(
            "Seed for the search and for every trial.",
            "Search",
            at_least=-INT64,
            at_most=INT64 - 1,
        ),
    ] = 0
    split: Annotated[
        str | None,
        Option(
            "How to split folders that have no train, val and test of their own, in per cent; "
            "80/20 for no test split.",
            "Data",
            default="60/20/20",
            metavar="TRAIN/VAL/TEST",
        ),
    ] = None
    split_seed: Annotated[
        int, Option("Seed for splitting such folders; the search has a seed of its own.", "Data")
    ] = 0
    backbone: Annotated[
        str | None,
        Option(
            "The frozen network: one of timm (methods --backbones lists them), for example "
            "vit_base_patch16_224.augreg_in21k; or a model with a config.json of timm's, "
            "hf-hub:OWNER/NAME or local-dir:FOLDER. Must be given, but for quickstart.",
            "Backbone",
            default="quickstart's own",
            metavar="NAME",
        ),
    ] = None
    weights: Annotated[
        Path | None,
        Option(
            "File with the backbone's weights: .safetensors, .pth or .npz.",
            "Backbone",
            default="timm's, which are fetched",
        ),
    ] = None
    backbone_args: Annotated[
        Sequence[str] | None,
        Option(
            "What timm builds the backbone with beside its name, for weights of --weights, hf-hub: "
            "or local-dir:, for example init_values=1e-5 reg_tokens=8 mlp_layer=SwiGLUPacked.",
            "Backbone",
            default="what the name and a config.json say",
            metavar="NAME=VALUE",
            pairs=True,
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "Height and width of the images in pixels; a multiple of the backbone's patches.",
            "Backbone",
            default="the backbone's",
            metavar="PIXELS",
            at_least=1,
            at_most=2048,
        ),
    ] = None
    resize: Annotated[
        Literal["squash", "center_crop"] | None,
        Option(
            "How images become square: whole and squashed, or cut to their center.",
            "Backbone",
            default="squash",
        ),
    ] = None
    normalization: Annotated[
        Literal["imagenet", "inception", "none"] | None,
        Option("How pixels are normalized.", "Backbone", default="as the backbone was pretrained"),
    ] = None
    sampler: Annotated[
        str, Option("What proposes configurations.", "Search", choices=("tpe", "random"))
    ] = "tpe"
    portfolio: Annotated[
        bool,
        Option(
            "Try first what did well elsewhere with such a backbone, where that is known; at most "
            "a third of a study's trials.",
            "Search",
        ),
    ] = True
    also: Annotated[
        Sequence[str] | None,
        Option(
            "A second objective: minimize=trained_parameters, or minimize=train_seconds_per_image. "
            "The sampler then looks for what is best in both, and the report shows the Pareto "
            "front; pruning and the best trial stay with the score.",
            "Search",
            default="the score alone",
            metavar="minimize=NAME",
            pairs=True,
        ),
    ] = None
    pruner: Annotated[str, Option("What stops weak trials early.", "Search", choices=choices())] = (
        DEFAULT
    )
    pruner_options: Annotated[
        Mapping[str, Any],
        Option(
            "A dictionary with values for the pruner's own options, e.g. "
            "{'reduction_factor': 3, 'first_rung_epochs': 5}.",
            "Pruner",
            in_commands=False,
        ),
    ] = field(default_factory=dict)
    """The others have the pruner's defaults. Commands have each as an option."""
    warm_start: Annotated[
        Sequence[str] | None,
        Option(
            "Begin each study with what did best in older sweeps, on their nearest tasks first: "
            "folders of sweeps, or their names in --storage, with commas between them or given "
            "several times.",
            "Search",
            default="none",
            metavar="SWEEP",
            commas=True,
        ),
    ] = None
    share_winners: Annotated[
        bool,
        Option(
            "Every third trial of a study tries what did best in the same space on the sweep's "
            "other tasks, those first that order its configurations alike.",
            "Search",
        ),
    ] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Option(
            "Numbers that the frozen network computes in; auto: the faster of the two, measured "
            "here.",
            "Machine",
        ),
    ] = "auto"
    launch: Annotated[
        Literal["auto", "eager", "graph", "compiled"],
        Option(
            "How a step reaches a GPU: kernel by kernel, recorded and replayed, or also with what "
            "is bound by memory fused; auto: the fastest, measured here.",
            "Machine",
        ),
    ] = "auto"
    deterministic: Annotated[
        bool,
        Option(
            "On a GPU: equal seeds give equal numbers to the last digit, at some cost of time.",
            "Machine",
        ),
    ] = False
    eval_every: Annotated[
        int,
        Option(
            "Validate after every N epochs; always where the pruner decides and after the last.",
            "Search",
            at_least=1,
            at_most=LARGEST,
        ),
    ] = 1
    frozen_cache: Annotated[
        bool,
        Option(
            "Keep what the frozen layers make of each image, and compute it only once.", "Machine"
        ),
    ] = True
    augment: Annotated[
        bool | None,
        Option("Train on random crops and mirror images.", "Search", default="fgvc only"),
    ] = None
    final: FinalProtocol | None = None
    """The protocol of the final stage, if one is to follow: what would stop it is said before the
    search."""


@dataclass(frozen=True, kw_only=True)
class NearTiesRequest:
    """What the last stage is to spend on near-ties: options of `finalize`, and of `sweep
    --finalize`."""

    most_finalists: Annotated[
        int | None,
        Option(
            "Where more trials are within one standard error of the best on validation, compare "
            "up to N of them.",
            "Last stage",
            default="the number of finalists",
        ),
    ] = None
    repeats: Annotated[
        int | None,
        Option(
            "Where the folds cannot tell the leading finalists apart, train these again on the "
            "same folds with other seeds, up to N times.",
            "Last stage",
            default="0",
        ),
    ] = None

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Fields of `FinalProtocol` that were given."""
        given = {"most_finalists": self.most_finalists, "repeats": self.repeats}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class FinalRequest(NearTiesRequest):
    """What the last stage is to do: the options of `orchestrator finalize` that decide it.

    None: as the stage was begun, or as `FinalProtocol` has it.
    """

    finalists: Annotated[
        int | None,
        Option(
            "Compare the N best trials of each study by validation accuracy.",
            "Last stage",
            default="3",
        ),
    ] = None
    folds: Annotated[
        int | None,
        Option("Compare them on N folds of all labelled images.", "Last stage", default="5"),
    ] = None
    seeds: Annotated[
        Sequence[int] | None,
        Option(
            "Seeds that the winner is retrained and tested with, with commas between them or given "
            "several times.",
            "Last stage",
            default="42,44,82,100,800",
            metavar="N,N",
            commas=True,
        ),
    ] = None
    unfinished: Annotated[
        bool,
        Option(
            "Take the best trials so far although the search is not over; it is recorded.",
            flag="--unfinished",
        ),
    ] = False
    again: Annotated[
        bool,
        Option(
            "Begin a new round for what is out of date or failed; both rounds are kept and told.",
            flag="--again",
        ),
    ] = False
    dry_run: Annotated[
        bool, Option("Say what would be run; open and start nothing.", flag="--dry-run")
    ] = False

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Fields of `FinalProtocol` that were given; the others are as the stage was begun."""
        given = {
            "num_finalists": self.finalists,
            "num_folds": self.folds,
            "seeds": None if self.seeds is None else tuple(self.seeds),
            **super().protocol,
        }
        return {name: value for name, value in given.items() if value is not None}

    def check(self) -> None:
        """ValueError names what no last stage can be done with."""
        for seed in self.seeds or ():
            if not 0 <= seed <= MOST_SEED:
                raise ValueError(f"--seeds: each must be from 0 to {MOST_SEED:,}, found {seed}")
        # Where --finalists is not given, --most-finalists is held against that which the stage was
        # begun with, when that is known.
        FinalProtocol(**{"num_finalists": 1, **self.protocol})

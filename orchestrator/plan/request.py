"""What the user asks for, before anything is looked at: of a search, and of its last stage.

Every field with an `Option` is an option of the command and a keyword of `Sweep`. Nothing heavy is
imported here, so that `--help` answers at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.plan.pruners.options import DEFAULT, choices
from orchestrator.support.document import INT64, MOST_SEED
from orchestrator.support.options import Option

LARGEST = 1_000_000


@dataclass(frozen=True)
class SweepRequest:
    """What is to be searched: the options of `orchestrator sweep` that end in its plan.

    None: the default that suits suite and backbone.
    """

    suite: Annotated[str, Option("vtab, fgvc, quickstart, or a folder of images.", positional=True)]
    _: KW_ONLY
    data: Annotated[
        Path | None, Option("The folder that holds the suite's folders (default: ./data).")
    ] = None
    tasks: Annotated[
        Sequence[str] | None,
        Option("Search these tasks of the suite only, separated by commas.", listed=True),
    ] = None
    methods: Annotated[
        Sequence[object] | None,
        Option(
            "What to search: a search space by name (`orchestrator spaces list`), a .yaml file, or "
            "a method of your own (my_method.py) beside its space (my_method.yaml). Give it "
            "several times for several (default: every prompt method).",
            flag="--method",
        ),
    ] = None
    """In Python also a `SearchSpace`."""
    metrics: Annotated[
        Sequence[str] | None,
        Option(
            "What is measured and maximized: top1 (the default), or mean_per_class, in which every "
            "class counts alike. TASK=NAME for one task; may be given several times. A suite.yaml "
            "beside the tasks can say it, too (metrics: {TASK: NAME}).",
            flag="--metric",
            metavar="[TASK=]NAME",
        ),
    ] = None
    trials: Annotated[
        int | None,
        Option(
            "Trials of each study, which is one search space on one task (30; quickstart: 8).",
            at_least=1,
            at_most=10_000_000,
        ),
    ] = None
    epochs: Annotated[
        int | None,
        Option(
            "Epochs of each trial; the warm-up keeps its share (default: as the space says).",
            at_least=1,
            at_most=LARGEST,
        ),
    ] = None
    seed: Annotated[
        int,
        Option("Seed for the search and for every trial.", at_least=-INT64, at_most=INT64 - 1),
    ] = 0
    split: Annotated[
        str | None,
        Option(
            "How to split folders that have no train, val and test of their own, in per cent: "
            "60/20/20 (the default), or 80/20 for no test split."
        ),
    ] = None
    split_seed: Annotated[
        int, Option("Seed for splitting such folders; the search has a seed of its own.")
    ] = 0
    backbone: Annotated[
        str | None,
        Option("The frozen network: a timm VisionTransformer, e.g. vit_base_patch16_224.mae."),
    ] = None
    weights: Annotated[
        Path | None,
        Option("File with the backbone's weights: .safetensors, .pth or .npz (default: timm's)."),
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            "Height and width of the images in pixels (default: the backbone's).",
            at_least=1,
            at_most=2048,
        ),
    ] = None
    resize: Annotated[
        Literal["squash", "center_crop"] | None,
        Option("How images become square: squash (whole image, the default) or center_crop."),
    ] = None
    normalization: Annotated[
        Literal["imagenet", "inception", "none"] | None,
        Option(
            "How pixels are normalized: imagenet, inception or none (default: as the backbone "
            "was pretrained)."
        ),
    ] = None
    sampler: Annotated[str, Option("What proposes configurations: tpe or random.")] = "tpe"
    pruner: Annotated[str, Option(f"What stops weak trials early: {', '.join(choices())}.")] = (
        DEFAULT
    )
    pruner_options: Annotated[
        Mapping[str, Any],
        Option(
            "A dictionary with values for the pruner's own options, e.g. "
            "{'reduction_factor': 3, 'first_rung_epochs': 5}.",
            in_commands=False,
        ),
    ] = field(default_factory=dict)
    """The others have the pruner's defaults. Commands have each as an option."""
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Option(
            "Numbers that the frozen network computes in: fp32, bf16, or auto for the faster of "
            "the two, measured here."
        ),
    ] = "auto"
    launch: Annotated[
        Literal["auto", "eager", "graph", "compiled"],
        Option(
            "How a step reaches a GPU: eager (kernel by kernel), graph (recorded and replayed), "
            "compiled (and what is bound by memory fused), or auto for the fastest, measured here."
        ),
    ] = "auto"
    deterministic: Annotated[
        bool,
        Option("On a GPU: equal seeds give equal numbers to the last digit, at some cost of time."),
    ] = False
    eval_every: Annotated[
        int,
        Option(
            "Validate after every N epochs; always where the pruner decides and after the last.",
            at_least=1,
            at_most=LARGEST,
        ),
    ] = 1
    frozen_cache: Annotated[
        bool, Option("Keep what the frozen layers make of each image, and compute it only once.")
    ] = True
    augment: Annotated[
        bool | None, Option("Train on random crops and mirror images (default: fgvc only).")
    ] = None
    final: FinalProtocol | None = None
    """The protocol of the final stage, if one is to follow: what would stop it is said before the
    search."""


@dataclass(frozen=True, kw_only=True)
class FinalRequest:
    """What the last stage is to do: the options of `orchestrator finalize` that decide it.

    None: as the stage was begun, or as `FinalProtocol` has it.
    """

    finalists: Annotated[
        int | None,
        Option("Compare the N best trials of each study by validation accuracy (3)."),
    ] = None
    folds: Annotated[int | None, Option("Compare them on N folds of all labelled images (5).")] = (
        None
    )
    seeds: Annotated[
        Sequence[int] | None,
        Option(
            "Seeds that the winner is retrained and tested with, separated by commas "
            "(42,44,82,100,800).",
            listed=True,
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
        }
        return {name: value for name, value in given.items() if value is not None}

    def check(self) -> None:
        """ValueError names what no last stage can be done with."""
        for seed in self.seeds or ():
            if not 0 <= seed <= MOST_SEED:
                raise ValueError(f"--seeds: each must be from 0 to {MOST_SEED:,}, found {seed}")
        FinalProtocol(**self.protocol)

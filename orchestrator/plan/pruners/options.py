"""The options of all pruners, made from their fields, and a pruner made from options."""

import math
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from orchestrator.plan.pruners import PRUNERS
from orchestrator.plan.pruners.pruner import Flag, Pruner
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import Between, OneOf, read_field
from orchestrator.support.field_docs import field_docs
from orchestrator.support.options import Field, Option

DEFAULT = next(iter(PRUNERS))


@dataclass(frozen=True, kw_only=True)
class PrunerOption:
    """One field, of one pruner or of several."""

    name: str
    flag: str
    """The flag as it is typed, `--reduction`."""
    kind: type
    """The type of its value, without the range."""
    default: Any
    """The default; None: fitted to the sweep at planning."""
    help: str
    owners: tuple[str, ...]
    """Names of the pruners that have it."""
    checks: tuple[Any, ...] = ()
    """What stands beside its type: the range, or the words that it may be."""

    @property
    def field(self) -> Field:
        """As an option of a request."""
        between = next((one for one in self.checks if isinstance(one, Between)), None)
        words = next((one.words for one in self.checks if isinstance(one, OneOf)), ())
        *others, last = self.owners
        option = Option(
            f"{self.help} Of {', '.join(others)}{' and ' if others else ''}{last}.",
            "Pruner",
            default="" if self.default is not None else "fitted to the sweep",
            flag=self.flag,
            choices=words,
            at_least=between and between.low,
            at_most=between and between.high,
        )
        return Field(self.name, self.kind, self.default, option)


def choices() -> tuple[str, ...]:
    """The pruners that can judge a trial by its epochs."""
    return tuple(name for name, kind in PRUNERS.items() if not kind.not_for_epochs)


def pruner_options() -> tuple[PrunerOption, ...]:
    """In the order in which the pruners name them."""
    found: dict[str, PrunerOption] = {}
    for pruner in choices():
        for option in _options_of(pruner):
            earlier = found.get(option.name)
            owners = (*earlier.owners, pruner) if earlier else (pruner,)
            found[option.name] = replace(earlier or option, owners=owners)
    return tuple(found.values())


def refuse_pruner(name: str, options: Mapping[str, Any]) -> None:
    """ValueError if there is no such pruner, or if it has no such option."""
    if name not in PRUNERS:
        raise ValueError(unknown("value of --pruner", name, choices()))
    if reason := PRUNERS[name].not_for_epochs:
        raise ValueError(f"--pruner {name}: {reason}")
    by_name = {option.name: option for option in pruner_options()}
    for given in options:
        if given not in by_name:
            raise ValueError(unknown("option of a pruner", given, by_name))
        option = by_name[given]
        if name not in option.owners:
            raise ValueError(
                f"{option.flag} is no option of the pruner {name}; it is one of "
                f"{', '.join(option.owners)}"
            )


def plan_pruner(
    name: str, options: Mapping[str, Any], *, epochs: int = 1, warmup_epochs: float = 0
) -> Pruner:
    """The pruner of this name with these options, its first rung fitted to trials so long.

    ValueError names the option that it does not have, or whose value is out of range.
    """
    refuse_pruner(name, options)
    kind = PRUNERS[name]
    given = {
        option.name: read_field(kind, option.name, options[option.name], called=option.flag)
        for option in _options_of(name)
        if option.name in options
    }
    if "first_rung_epochs" in {f.name for f in fields(kind)}:
        first = default_first_rung_epochs(epochs, warmup_epochs, kind.first_rung_share)
        given.setdefault("first_rung_epochs", first)
    return kind(**given)


def default_first_rung_epochs(epochs: int, warmup_epochs: float, share: float = 0.0) -> int:
    """A share of the epochs; at least a twentieth of them after the warm-up, when learning rates
    can be told apart."""
    told_apart = math.ceil(warmup_epochs) + max(1, round(0.05 * epochs))
    return min(epochs, max(told_apart, math.ceil(share * epochs)))


def _options_of(name: str) -> list[PrunerOption]:
    kind = PRUNERS[name]
    docs, hints = field_docs(kind), typing.get_type_hints(kind, include_extras=True)
    found = []
    for one in fields(kind):
        if not one.init:
            continue
        plain, *notes = typing.get_args(hints[one.name])
        flags = [note.name for note in notes if isinstance(note, Flag)]
        found.append(
            PrunerOption(
                name=one.name,
                flag=flags[0] if flags else f"--{one.name.replace('_', '-')}",
                kind=plain,
                default=None if one.default is MISSING else one.default,
                help=docs[one.name],
                owners=(name,),
                checks=tuple(notes),
            )
        )
    return found

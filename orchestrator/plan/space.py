"""A search space: what may vary in a study, read from YAML and drawn with an Optuna trial.

The words of a space are Optuna's (`choices`, or `low`, `high`, `log`, `step`); its names are the
fields of the method and of the recipe, so a space cannot mention what training would ignore.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from methods import METHODS, block_range
from methods.catalogue import declaration
from orchestrator.plan.prior import Prior
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.document import shown
from orchestrator.support.yaml_io import parse_yaml, read_yaml
from orchestrator.training.config import Value, build, check_recipe, check_type, hyperparameters
from orchestrator.training.named_methods import use_named
from orchestrator.training.own_methods import INSTALLED_SPACES

KEYS = ("method", "fixed", "search", "start", "searched_by_default")
"""The keys that the YAML file of a search space may have."""

_ROUNDING = 1e-8
"""How far a value may lie beside a multiple of its step, as Optuna has it."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One hyper-parameter that is searched."""

    name: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Value, ...]]
    """Searched only if every name here has one of its values."""
    prior: Prior | None = None
    """Where it is believed to do best, if the page says so."""

    def applies(self, drawn: Mapping[str, Value]) -> bool:
        return all(drawn.get(name) in values for name, values in self.when.items())

    def suggest(self, trial: optuna.Trial) -> Value:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.name, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.name, low, high, step=step, log=log)
        raise AssertionError(self.distribution)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A page of `search_spaces/`: one method or variant."""

    name: str
    method: str
    fixed: Mapping[str, Value]
    dimensions: tuple[Dimension, ...]
    document: Mapping[str, Any]
    """The YAML as read, for the frozen plan."""
    searched_by_default: bool = False
    """Where no method is named: it is one of those that compete for the best of a task."""
    start: tuple[Mapping[str, Value], ...] = ()
    """Configurations to try first; what is searched and not named in one is drawn."""

    @classmethod
    def of(cls, document: Mapping[str, Any], *, name: str) -> "SearchSpace":
        """The space in a dictionary with `method`, `fixed` and `search`, as a .yaml file has it."""
        return parse_space(dict(document), name=name, source=f"space {name}")

    @classmethod
    def load(cls, name_or_path: str | Path) -> "SearchSpace":
        """A space that comes with the package, by its name, or a file by its path."""
        return load_space(str(name_or_path))

    def draw(self, trial: optuna.Trial) -> dict[str, Value]:
        """Fixed values and, for every dimension that applies, the trial's suggestion."""
        drawn = dict(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn[dimension.name] = dimension.suggest(trial)
        return drawn

    @cached_property
    def unsearched(self) -> dict[str, Value]:
        """Every hyper-parameter, as a trial has it that draws nothing: fixed, else default."""
        own, recipe = build(self.method, self.fixed, source=self.name)
        return {**asdict(own), **asdict(recipe)}

    def with_fixed(self, overrides: Mapping[str, Value]) -> "SearchSpace":
        """This space with some names held fixed (and no longer searched)."""
        document = {
            **self.document,
            "fixed": {**self.fixed, **overrides},
            "search": {
                name: line
                for name, line in (self.document.get("search") or {}).items()
                if name not in overrides
            },
            **_starting_at(self._start_with(overrides)),
        }
        return parse_space(document, name=self.name, source=self.name)

    def _start_with(self, overrides: Mapping[str, Value]) -> list[dict[str, Value]]:
        """What is left to say of where to start, where some names are held fixed."""
        left: list[dict[str, Value]] = []
        for one in self.start:
            known = {**self.fixed, **one, **_pair_as_text(overrides)}
            config = {
                dimension.name: one[dimension.name]
                for dimension in self.dimensions
                if dimension.name in one
                and dimension.name not in overrides
                and all(known.get(n, v[0]) in v for n, v in dimension.when.items())
            }
            if config and config not in left:
                left.append(config)
        return left

    @property
    def priors(self) -> dict[str, Prior]:
        """Of the names that have one."""
        return {d.name: d.prior for d in self.dimensions if d.prior is not None}

    def searched(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a configuration that were drawn, not fixed, in the order of the page."""
        names = (dimension.name for dimension in self.dimensions)
        return {name: config[name] for name in names if name in config}

    def check_drawn(self, config: Mapping[str, Any], *, source: str) -> None:
        """ValueError names a value of `config` that no trial could draw together with the others,
        where those are named."""
        by_name = {dimension.name: dimension for dimension in self.dimensions}
        known_types = hyperparameters(self.method)
        for name, value in config.items():
            if name in self.fixed:
                raise ValueError(
                    f"{source}: {name}: is held fixed at {shown(self.fixed[name])}, not searched"
                )
            if name not in by_name:
                raise ValueError(f"{source}: {unknown('searched name', name, by_name)}")
            dimension = by_name[name]
            check_type(name, value, known_types[name], source)
            if not holds(dimension.distribution, value):
                raise ValueError(
                    f"{source}: {name}: {_not_searched(dimension.distribution, value)}"
                )
            known = {**self.fixed, **config}
            for earlier, values in dimension.when.items():
                if earlier in known and known[earlier] not in values:
                    raise ValueError(
                        f"{source}: {name}: is searched only where {earlier} is "
                        f"{' or '.join(map(shown, values))}, found {shown(known[earlier])}"
                    )

    def refused(self, config: Mapping[str, Any]) -> str | None:
        """Why no trial could draw these values; None where one could."""
        try:
            self.check_drawn(config, source=self.name)
        except ValueError as error:
            return str(error)
        return None

    def num_combinations(self) -> float:
        """How many configurations there are; infinite if a dimension is continuous."""
        return _count(self.dimensions, dict(self.fixed))


def shipped_spaces() -> list[str]:
    """Names of the spaces in this package and beside methods of installed ones, sorted."""
    folder = resources.files("search_spaces")
    own = [entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted({*(name.removesuffix(".yaml") for name in own), *INSTALLED_SPACES})


def default_spaces() -> list[SearchSpace]:
    """Those that say `searched_by_default`, in the order of their methods."""
    spaces = [load_space(name, parse=outline_space) for name in shipped_spaces()]
    found = [space for space in spaces if space.searched_by_default]
    methods = list(METHODS)
    # Of one method the shallow variant first: `deep` is what they hold fixed.
    return sorted(found, key=lambda s: (methods.index(s.method), repr(sorted(s.fixed.items()))))


def parse_space(document: Any, *, name: str, source: str) -> SearchSpace:
    """The space in a document with the keys of a page of `search_spaces/`; ValueError if wrong."""
    space = outline_space(document, name=name, source=source)
    _check_values(space, source)
    return space


def load_space(
    name_or_path: str, *, parse: Callable[..., SearchSpace] = parse_space
) -> SearchSpace:
    """A space by its name, a user's file by its path (`*.yaml`), or the space beside a user's
    method (`my_method.py`, whose space is `my_method.yaml`).

    `parse` is `outline_space` for whoever must not wait for torch.
    """
    if name_or_path.endswith(".py"):
        return _space_beside(Path(name_or_path), parse)
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        return parse(read_yaml(path), name=path.stem, source=str(path))
    names = shipped_spaces()
    if name_or_path not in names:
        raise ValueError(
            unknown("method or search space", name_or_path, names)
            + " (or give the path of a .yaml file, or of a method's .py file)"
        )
    folder = resources.files("search_spaces")
    entry = INSTALLED_SPACES.get(name_or_path, folder / f"{name_or_path}.yaml")
    source = f"{name_or_path}.yaml"
    return parse(
        parse_yaml(entry.read_text(encoding="utf-8"), source=source),
        name=name_or_path,
        source=source,
    )


def _space_beside(method: Path, parse: Callable[..., SearchSpace]) -> SearchSpace:
    own = use_named(method)
    page = method.expanduser().with_suffix(".yaml")
    if not page.is_file():
        raise ValueError(
            f"{method}: its search space is missing: {page.name} beside it, which says what may "
            f"vary, and begins with `method: {own.name}`"
        )
    space = load_space(str(page), parse=parse)
    if space.method != own.name:
        raise ValueError(f"{page}: method: expected {own.name}, found {space.method}")
    return space


def outline_space(document: Any, *, name: str, source: str) -> SearchSpace:
    """The space in a document, without a look at its method's class, which brings torch.

    ValueError for all but a value of the right type that the method itself refuses.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{source}: expected keys method, fixed, search; found {shown(document)}")
    for key in document:
        if key not in KEYS:
            raise ValueError(f"{source}: {unknown('key', str(key), KEYS)}")
    if not isinstance(by_default := document.get("searched_by_default", False), bool):
        raise ValueError(
            f"{source}: searched_by_default: expected true or false, found {shown(by_default)}"
        )
    method = document.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"{source}: {unknown('method', str(method), METHODS)}")
    given = [document.get(section) for section in ("fixed", "search")]
    fixed, search = ({} if content is None else content for content in given)
    for section, content in (("fixed", fixed), ("search", search)):
        if not isinstance(content, dict):
            raise ValueError(
                f"{source}: {section}: expected names with values, found {shown(content)}"
            )
    known = hyperparameters(method)
    for entry in [*fixed, *search]:
        if entry not in known:
            message = unknown(f"{method} hyper-parameter", str(entry), known)
            raise ValueError(f"{source}: {message}")
    fixed, search = _pairs_as_text(dict(fixed), dict(search), source)
    dimensions: list[Dimension] = []
    for entry, line in search.items():
        if entry in fixed:
            raise ValueError(f"{source}: {entry}: stands under both fixed and search")
        above = {**{n: None for n in fixed}, **{d.name: None for d in dimensions}}
        dimensions.append(_parse_dimension(entry, line, above=list(above), source=source))
    start = _start(document.get("start"), source)
    space = SearchSpace(
        name=name,
        method=method,
        fixed=fixed,
        dimensions=tuple(dimensions),
        document={
            **{"method": method, "fixed": fixed, "search": search},
            **_starting_at(start),
        },
        searched_by_default=by_default,
        start=start,
    )
    _check_types(space, known, source)
    for number, config in enumerate(start, 1):
        space.check_drawn(config, source=f"{source}: start: entry {number}")
    return space


def _start(entries: Any, source: str) -> tuple[dict[str, Value], ...]:
    """What stands under `start`: a list of names with values."""
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one for one in entries):
        raise ValueError(
            f"{source}: start: expected a list of configurations, each of names with values, "
            f"found {shown(entries)}"
        )
    try:
        return tuple(_pair_as_text(one) for one in entries)
    except ValueError as error:
        raise ValueError(f"{source}: start: {block_range.NAME}: {error}") from error


def _starting_at(configs: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    """The key of a document that says so, if there is anything to say."""
    return {"start": [dict(one) for one in configs]} if configs else {}


def _pair_as_text(config: Mapping[str, Any]) -> dict[str, Value]:
    """The same with a pair of blocks as the text that a study stores."""
    name = block_range.NAME
    return {**config, **({name: block_range.as_text(config[name])} if name in config else {})}


def _pairs_as_text(
    fixed: dict[str, Any], search: dict[str, Any], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with every pair of blocks as the text that a study stores (`methods/block_range.py`)."""
    name = block_range.NAME
    try:
        if name in fixed:
            fixed[name] = block_range.as_text(fixed[name])
        line = search.get(name)
        if isinstance(line, dict) and isinstance(choices := line.get("choices"), list):
            prior = {"prior": block_range.as_text(line["prior"])} if "prior" in line else {}
            texts = [block_range.as_text(one) for one in choices]
            search[name] = {**line, "choices": texts, **prior}
    except ValueError as error:
        raise ValueError(f"{source}: {name}: {error}") from error
    return fixed, search


def _parse_dimension(name: str, line: Any, *, above: list[str], source: str) -> Dimension:
    words = ("choices", "low", "high", "log", "step", "when", "prior")
    if not isinstance(line, dict):
        raise ValueError(
            f"{source}: {name}: expected {{choices: [...]}} or {{low: ..., high: ...}}, "
            f"found {shown(line)} (a single value belongs under fixed)"
        )
    for word in line:
        if word not in words:
            raise ValueError(f"{source}: {name}: {unknown('word', str(word), words)}")
    when = line.get("when") or {}
    if not isinstance(when, dict):
        raise ValueError(f"{source}: {name}: `when` expects {{name: value}}, found {shown(when)}")
    for earlier in when:
        if earlier not in above:
            raise ValueError(f"{source}: {name}: `when` names {earlier!r}, not defined above it")
    arguments = {word: line[word] for word in line if word not in ("when", "prior")}
    try:
        distribution = _distribution(arguments)
        if "prior" in line and not holds(distribution, line["prior"]):
            raise ValueError(f"prior: {_not_searched(distribution, line['prior'])}")
        conditions = {earlier: _alternatives(earlier, value) for earlier, value in when.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {name}: {error}") from error
    prior = Prior(value=line["prior"]) if "prior" in line else None
    return Dimension(name=name, distribution=distribution, when=conditions, prior=prior)


def _alternatives(name: str, value: Any) -> tuple[Value, ...]:
    """The values of `name` for which a line applies."""
    if not isinstance(value, list):
        return (value,)
    if name == block_range.NAME:  # one pair, or a list of pairs and texts
        is_pair = all(isinstance(end, int) for end in value)
        return tuple(map(block_range.as_text, [value] if is_pair else value))
    return tuple(value)


def _distribution(arguments: dict[str, Any]) -> BaseDistribution:
    if "choices" in arguments:
        extra = sorted(set(arguments) - {"choices"})
        if extra:
            raise ValueError(f"choices stand alone, found also {', '.join(extra)}")
        choices = arguments["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError(
                f"choices must be a list with at least one value, found {shown(choices)}"
            )
        if len(set(map(repr, choices))) != len(choices):
            raise ValueError(f"choices {shown(choices)} name a value twice")
        return CategoricalDistribution(choices)
    if not {"low", "high"} <= set(arguments):
        raise ValueError("needs choices, or low and high")
    bounds = (arguments["low"], arguments["high"])
    if any(isinstance(b, bool) or not isinstance(b, int | float) for b in bounds):
        raise ValueError(f"low and high must be numbers, found {shown(list(bounds))}")
    if not all(abs(b) < _MOST for b in bounds):  # neither of infinity nor of no number
        raise ValueError(f"low and high must be finite, found {shown(list(bounds))}")
    if not isinstance(arguments.get("log", False), bool):
        raise ValueError(f"log must be true or false, found {arguments['log']!r}")
    step = arguments.get("step", 1)
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < _MOST:
        raise ValueError(f"step must be a number above 0, found {shown(step)}")
    integers = all(isinstance(arguments[k], int) for k in ("low", "high", "step") if k in arguments)
    return (IntDistribution if integers else FloatDistribution)(**arguments)


_MOST = 2.0**1000
"""The largest bound of a range: beyond it a whole number is no float any more."""


def extremes(distribution: BaseDistribution) -> tuple[Value, ...]:
    """All choices, or both ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def _not_searched(distribution: BaseDistribution, value: Any) -> str:
    ends = extremes(distribution)
    if isinstance(distribution, CategoricalDistribution):
        words = ", ".join(map(shown, ends))
    else:
        step = getattr(distribution, "step", None)
        steps = f" in steps of {shown(step)}" if step not in (None, 1) else ""
        words = f"from {shown(ends[0])} to {shown(ends[1])}{steps}"
    return f"{shown(value)} is not among the values that are searched: {words}"


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value may be drawn from it. Optuna's own answer is private."""
    try:
        number = distribution.to_internal_repr(value)
    except (ValueError, TypeError, OverflowError):
        return False
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return True  # it is one of the choices
    if not distribution.low <= number <= distribution.high:
        return False
    if isinstance(distribution, IntDistribution):
        return (number - distribution.low) % distribution.step == 0
    steps = 0.0 if distribution.step is None else (number - distribution.low) / distribution.step
    return abs(steps - round(steps)) < _ROUNDING


def _check_types(space: SearchSpace, known: Mapping[str, Any], source: str) -> None:
    for name, value in space.fixed.items():
        check_type(name, value, known[name], source)
    check_recipe(space.method, space.fixed, source=source)
    for name, value, config in _extreme_configs(space):
        check_type(name, value, known[name], source)
        check_recipe(space.method, config, source=f"{source}: {name}")
    for name, prior in space.priors.items():
        check_type("prior", prior.value, known[name], f"{source}: {name}")


def _check_values(space: SearchSpace, source: str) -> None:
    """Build method and recipe with every extreme value, so that no trial can fail on a range."""
    build(space.method, space.fixed, source=source)
    for name, _, config in _extreme_configs(space):
        build(space.method, config, source=f"{source}: {name}")


def _extreme_configs(space: SearchSpace) -> Iterator[tuple[str, Value, dict[str, Value]]]:
    for dimension in space.dimensions:
        conditions = {k: v[0] for k, v in dimension.when.items()}
        for value in extremes(dimension.distribution):
            yield dimension.name, value, {**space.fixed, **conditions, dimension.name: value}


def _count(dimensions: tuple[Dimension, ...], drawn: dict[str, Value]) -> float:
    if not dimensions:
        return 1
    first, rest = dimensions[0], dimensions[1:]
    if not first.applies(drawn):
        return _count(rest, drawn)
    distribution = first.distribution
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return math.inf
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
        count = len(values)
    else:
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step or 1
        count = round((high - low) / step) + 1
        values = None
    # Values that no later `when` names leave the same to be drawn: they are counted together.
    named = {value for later in rest for value in later.when.get(first.name, ())}
    if values is None:
        matter = [
            value
            for value in named
            if isinstance(value, int | float) and holds(distribution, value)
        ]
    else:
        matter = [value for value in values if value in named]
    found = sum(_count(rest, {**drawn, first.name: value}) for value in matter)
    others = count - len(matter)
    return found + (others * _count(rest, {**drawn, first.name: _ANOTHER}) if others else 0)


_ANOTHER = "another value than any that is named"


def default_of(method: str, name: str) -> Value:
    """The value of a hyper-parameter when a space does not mention it."""
    said = declaration(method)
    return said.defaults[name] if name in said.defaults else getattr(said.recipe, name)

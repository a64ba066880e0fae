"""Which of the classes that a model knows a name means."""

from collections.abc import Iterable, Sequence

from orchestrator.data.class_names import folded


def labels_of(names: Iterable[str], class_names: Sequence[str]) -> dict[str, int]:
    """The label of every name that is a class, be it in other capitals or blanks.

    A name that could be two classes is none of them.
    """
    exact = {name: label for label, name in enumerate(class_names)}
    alike: dict[str, list[int]] = {}
    for label, name in enumerate(class_names):
        alike.setdefault(folded(name), []).append(label)
    found: dict[str, int] = {}
    for name in names:
        similar = alike.get(folded(name), [])
        if name in exact:
            found[name] = exact[name]
        elif len(similar) == 1:
            found[name] = similar[0]
    return found

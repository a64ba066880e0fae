"""Curves as the storage keeps them: a list per metric."""

from collections.abc import Mapping, Sequence

from orchestrator.training.facts import EpochRow


def as_columns(rows: Sequence[EpochRow]) -> dict[str, list[float | None]]:
    """Rows as columns; beside the accuracy, which must stay exact, numbers are cut to 6 digits.

    A metric that a row does not have, as the accuracy of an epoch that was not validated, is None.
    """

    def kept(name: str, value: float | None) -> float | None:
        if value is None or name in ("epoch", "val_accuracy"):
            return value
        return float(f"{value:.6g}")

    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [kept(name, row.get(name)) for row in rows] for name in names}


def as_rows(columns: Mapping[str, Sequence[float | None]]) -> list[EpochRow]:
    """The rows that `as_columns` was given; what older versions called `lr` is `scaled_lr`."""
    names = ["scaled_lr" if name == "lr" else name for name in columns]
    rows = [zip(names, row, strict=True) for row in zip(*columns.values(), strict=True)]
    return [{name: value for name, value in row if value is not None} for row in rows]

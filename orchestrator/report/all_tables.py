"""Every table of a report, in the order in which they are read."""

from orchestrator.report.collect import SweepReport
from orchestrator.report.front_table import front_tables
from orchestrator.report.table import Table, result_tables


def all_tables(report: SweepReport) -> list[Table]:
    """With the Pareto fronts after the best, where there are two objectives."""
    best, *others = result_tables(report)
    return [best, *front_tables(report), *others]

"""Names that a shell may complete. Looked up when it asks, and nothing is computed for them."""

from collections.abc import Sequence


def suite_names() -> Sequence[str]:
    """Suites that are known by name."""
    from orchestrator.data.suites import PUBLISHED_SUITES, QUICKSTART

    return (QUICKSTART, *PUBLISHED_SUITES)


def method_names() -> Sequence[str]:
    """Methods that come with this package or with an installed one."""
    from methods import METHODS

    return list(METHODS)


def space_names() -> Sequence[str]:
    """Search spaces that come with this package or with an installed one."""
    from orchestrator.plan.space import shipped_spaces

    return shipped_spaces()

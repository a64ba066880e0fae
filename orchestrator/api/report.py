"""The report of a sweep, as a value: to be shown in a notebook, and written in any of its forms."""

from pathlib import Path
from typing import Any

from orchestrator.api.best_bundles import find_bundles
from orchestrator.report.all_tables import all_tables
from orchestrator.report.collect import SweepReport
from orchestrator.report.findings import headlines
from orchestrator.report.formats import as_csv, document, latex, markdown, study_rows
from orchestrator.report.page import page
from orchestrator.report.table import Table
from orchestrator.support.phases import phase
from orchestrator.support.whole_file import whole_file

PAGE_FILE = "report.html"


class Report:
    """What a sweep found: sentences, tables beside published numbers, a page with every figure."""

    def __init__(self, found: SweepReport, *, folder: Path) -> None:
        self.found = found
        """The studies and trials that it was made of."""
        self._folder = folder

    @property
    def headlines(self) -> list[str]:
        """What was found, in sentences."""
        return headlines(self.found)

    @property
    def tables(self) -> list[Table]:
        return all_tables(self.found)

    @property
    def markdown(self) -> str:
        """Sentences and tables."""
        return markdown(self.tables, self.headlines)

    @property
    def latex(self) -> str:
        """The tables."""
        return latex(self.tables)

    @property
    def csv(self) -> str:
        """A row for each study."""
        return as_csv(study_rows(self.found))

    @property
    def document(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return document(self.found)

    @property
    def html(self) -> str:
        """One page with every figure, which needs no file beside it and no network."""
        with phase("drawing the page"):
            return page(self.found, find_bundles(self.found, self._folder))

    def write(self, path: str | Path | None = None) -> Path:
        """Write the page, to report.html in the sweep's folder if no path is given."""
        target = Path(path) if path else self._folder / PAGE_FILE
        if not target.parent.is_dir():
            raise ValueError(f"{target}: there is no folder {target.parent} to write the page in")
        with whole_file(target) as file:
            file.write(self.html.encode())
        return target

    def __str__(self) -> str:
        return self.markdown

    def _repr_markdown_(self) -> str:
        """For notebooks."""
        return self.markdown

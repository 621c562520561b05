"""Tables that commands write into the documentation, each between two marks that name its result and its command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import RESULTS, ROOT


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


@dataclass(frozen=True)
class Table:
    """A table's place in a page.

    Args:
        page: path in the checkout. result: JSON file in `bench/results/`. command: the command that writes both.
    """

    page: str
    result: str
    command: str

    @property
    def path(self) -> Path:
        """The page."""
        return ROOT / self.page

    @property
    def result_path(self) -> Path:
        """The JSON file."""
        return RESULTS / self.result

    def page_with(self, table: str) -> str:
        """The page with this table between its marks."""
        begin = f"<!-- table of {self.result}, written by `{self.command}` -->"
        end = f"<!-- end of {self.result} -->"
        before, rest = self.path.read_text(encoding="utf-8").split(begin)
        return f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"

    def write(self, table: str) -> None:
        """Write the table into the page."""
        self.path.write_text(self.page_with(table), encoding="utf-8")

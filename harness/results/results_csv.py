"""``results.csv``: the results table as text that is the same on every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.results.schema import COLUMNS

if TYPE_CHECKING:
    from harness.results.schema import StudyResults


def results_csv(results: StudyResults) -> str:
    """Return ``results.rows`` in its order: columns ``COLUMNS``, 10 significant digits, an empty field for nothing."""
    rows = results.rows.reindex(columns=list(COLUMNS))
    return str(rows.to_csv(index=False, float_format="%.10g", lineterminator="\n"))

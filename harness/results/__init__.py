"""The results of a study as tables, and the catalogue of the tables and figures that show them.

Imports ``errors``, ``home``, ``data`` and ``plugins``.
"""

from harness.results.catalogue import FigureSpec, Panel, TableSpec
from harness.results.schema import StudyResults

__all__ = ["FigureSpec", "Panel", "StudyResults", "TableSpec"]

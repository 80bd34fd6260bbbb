"""Reports: pages, tables and figures, a pure function of a study's results.

Imports ``stats``, ``results``, ``metrics``, ``study`` and ``data``. The catalogue of ``results`` finds the tables and
figures. What the papers printed, and how it is matched, is in ``papers`` alone.
"""

"""The results of a study as tables, and the names of the tables and figures that show them.

Imports ``errors`` and ``data``.
"""

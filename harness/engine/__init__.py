"""From a declaration to stored results: load, check, plan, run, collect. Knows no model and no paper.

Imports every room but ``stats``, ``report``, ``tracking``, ``conformance`` and ``cli``.
"""

"""Statistics of a study: intervals, paired differences, tests and verdicts.

``resampling`` holds the arithmetic on arrays, ``study`` applies it to a results table.
"""

from harness.stats.resampling import Estimate, Fold, estimate, holm, smallest_detectable, swap_test
from harness.stats.study import Effect, Score, Verdict, effects, scores

__all__ = [
    "Effect",
    "Estimate",
    "Fold",
    "Score",
    "Verdict",
    "effects",
    "estimate",
    "holm",
    "scores",
    "smallest_detectable",
    "swap_test",
]

"""Statistics of a study: intervals, paired differences, verdicts.

``design`` turns a table into arrays, ``estimator`` says how far scores and their differences are from chance,
``verdicts`` says it in words, ``study`` applies all of it to the results of a study.
"""

from harness.stats.design import Block, blocks
from harness.stats.estimator import Components, Estimate
from harness.stats.score import Score
from harness.stats.study import Measured, effects, measure, scores
from harness.stats.verdicts import ArmKey, Effect, Verdict, verdict

__all__ = [
    "ArmKey",
    "Block",
    "Components",
    "Effect",
    "Estimate",
    "Measured",
    "Score",
    "Verdict",
    "blocks",
    "effects",
    "measure",
    "scores",
    "verdict",
]

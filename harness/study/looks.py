"""What each look at the results may spend of a study's error rate.

Looking at results and adding replicates until something shows is how false alarms are made. A study may look several
times when each look spends a part of its error rate (Lan and DeMets 1983, with the spending function that is like
Pocock's bounds). Each look tests at what it spends itself, so that the parts sum up to the whole, whatever the looks
have to do with each other; looks that score the same images have much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def spent(looks: Sequence[int], place: int, level: float) -> float:
    """Return the error rate that one look may spend.

    Args:
        looks: numbers of replicates at which a study looks, rising; the last is the most it may have.
        place: which of them, from 0.
        level: of all looks together.
    """
    shares = [math.log(1 + (math.e - 1) * look / looks[-1]) for look in (0, *looks)]
    return level * (shares[place + 1] - shares[place])

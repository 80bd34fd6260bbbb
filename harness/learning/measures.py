"""What a generator measures of its own work while it learns."""

from harness.metrics.features.extract import features
from harness.metrics.features.networks import fid_network
from harness.metrics.fidelity.frechet import frechet_distance

__all__ = ["features", "fid_network", "frechet_distance"]

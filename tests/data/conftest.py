"""Every data test has an empty place for datasets."""

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_home(home):
    """Keep what a test imports out of the project."""

"""Small real datasets on disk: what the data tests import, split and break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import phantom


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty place for datasets."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HARNESS_HOME", str(folder))
    return folder


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write phantom frames as PNG files into ``images/`` and ``masks/``; the first has a polyp."""

    def write(count: int = 3, folder: str = "origin", first: int = 0) -> Path:
        root = tmp_path / folder
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            image, mask = phantom.render(5, index, 48)
            Image.fromarray(image).save(root / "images" / f"frame{index}.png")
            Image.fromarray(mask * np.uint8(255)).save(root / "masks" / f"frame{index}.png")
        return root

    return write

"""The figure of generators: the first pairs of each set, image above mask, in their places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harness.data.pairs import PairSet
from harness.report.figures.image_grids import generators_figure, wrapped
from harness.report.figures.style import save
from harness.report.render import render

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}


def plain(name: str, green: int, count: int) -> PairSet:
    """Images of one colour each, another for every image; masks full and empty in turns."""
    images = np.zeros((count, 16, 16, 3), np.uint8)
    images[..., 0] = 20 * np.arange(1, count + 1, dtype=np.uint8)[:, None, None]
    images[..., 1] = green
    masks = np.zeros((count, 16, 16), np.uint8)
    masks[::2] = 1
    return PairSet.real(images, masks, [f"{name}/{i}" for i in range(count)])


@pytest.fixture
def results(study):
    synthetic = {"control:resample": plain("c", 200, 8), "fastgan": plain("f", 100, 4), "dcgan": plain("d", 150, 8)}
    return replace(study(RECIPES), generators=["dcgan", "fastgan"], real=plain("r", 50, 8), synthetic=synthetic)


def test_every_pixel_is_of_the_right_picture(results, tmp_path):
    figure = generators_figure(results)
    assert save(figure, tmp_path / "g")
    assert (tmp_path / "g.pdf").is_file()
    axes = np.array(figure.axes).reshape(6, 6)
    # Declared order, real images first, no control.
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["real", "mask", "dcgan", "mask", "fastgan", "mask"]
    with Image.open(tmp_path / "g.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for row, (name, green, count) in enumerate([("real", 50, 8), ("dcgan", 150, 8), ("fastgan", 100, 4)]):
        for column in range(6):
            shown, expected = [], []
            for axis in axes[2 * row : 2 * row + 2, column]:
                box = axis.get_position()
                y, x = (1 - (box.y0 + box.y1) / 2) * pixels.shape[0], (box.x0 + box.x1) / 2 * pixels.shape[1]
                shown.append(tuple(int(value) for value in pixels[int(y), int(x)]))
            if column < count:
                expected = [(20 * (column + 1), green, 0), (255, 255, 255) if column % 2 == 0 else (0, 0, 0)]
            else:
                expected = [(255, 255, 255)] * 2  # paper
            assert shown == expected, (name, column)


def test_without_a_generator_there_is_no_figure(results, tmp_path):
    assert generators_figure(replace(results, synthetic={})) is None
    assert generators_figure(replace(results, synthetic={"control:resample": plain("c", 1, 3)})) is None
    assert not save(None, tmp_path / "g")
    assert not list(tmp_path.iterdir())
    assert generators_figure(replace(results, real=None)) is not None


def test_a_report_has_it_as_png_and_pdf_and_on_its_page(results, tmp_path):
    folder = render(replace(results, figures=["generators"], tables=["none"]), tmp_path / "r").parent
    assert {path.name for path in (folder / "figures").iterdir()} == {"generators.pdf", "generators.png"}
    page = (folder / "report.html").read_text()
    assert "The first of each pool, not chosen; below each image its mask." in page
    with Image.open(folder / "figures" / "generators.png") as picture:
        assert abs(picture.width / 220 - 3.5) < 0.01


def test_long_labels_break_behind_dashes_commas_and_colons():
    assert wrapped("real=4,control:real-repeated=8") == "real=4,\ncontrol:\nreal-\nrepeated=8"
    assert wrapped("dcgan") == "dcgan"

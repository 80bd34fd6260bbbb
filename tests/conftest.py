"""Fixtures shared by all tests: a small dataset on disk, one-step plugins, and the real command line."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest_plugins = [
    "tests.fixtures.made_results",
    "tests.fixtures.needs",
    "tests.fixtures.random_inception",
    "tests.fixtures.small_datasets",
]

PLUGINS = '''
"""A generator that paints, a refiner that dims and a segmenter with four weights: each trains in one step."""

import json

import numpy as np
from pydantic import Field

from harness.learning import Card, Checkpoint, Generator, Parameters, Refiner, Sample, Segmenter


class Painter(Generator):
    """Learns the mean colour inside and outside the masks, and paints discs with them."""

    name = "painter"
    card = Card(cost="nothing")

    class Parameters(Parameters):
        shift: int = Field(0, description="added to each colour", ge=0, le=50)
        fail: bool = Field(False, description="raise instead of fitting")
        checkpoints: int = Field(2, description="how many")

    def fit(self, pairs, context):
        if self.parameters.fail:
            raise RuntimeError("the paint is dry")
        inside = pairs.images[pairs.masks == 1].mean(0)
        outside = pairs.images[pairs.masks == 0].mean(0)
        for step in range(1, self.parameters.checkpoints + 1):
            folder = context.checkpoint_folder(step)
            faded = outside / (self.parameters.checkpoints + 1 - step)
            document = {"inside": inside.tolist(), "outside": faded.tolist()}
            (folder / "colours.json").write_text(json.dumps(document))
            context.log(step, loss=1.0 / step)
            yield Checkpoint(step, folder)

    def sample(self, checkpoint, seeds, context, masks=None):
        colours = json.loads((checkpoint.folder / "colours.json").read_text())
        height, width = context.pairs.size
        y, x = np.mgrid[:height, :width]
        images, made = [], []
        for seed in seeds:
            draw = np.random.default_rng(int(seed))
            cy, cx, r = draw.uniform(0.3, 0.7) * height, draw.uniform(0.3, 0.7) * width, draw.uniform(0.1, 0.3) * height
            mask = ((y - cy) ** 2 + (x - cx) ** 2 < r * r).astype(np.uint8)
            image = np.where(mask[..., None], colours["inside"], colours["outside"]) + self.parameters.shift
            images.append(np.clip(image + draw.normal(0, 5, image.shape), 0, 255).astype(np.uint8))
            made.append(mask)
        return Sample(masks=np.stack(made), images=np.stack(images))


class Dimmer(Refiner):
    """Halves the distance of each image to its source's mean colour."""

    name = "dimmer"

    def refine(self, synthetic, sources, seeds, context):
        target = sources.images.mean(axis=(1, 2), keepdims=True)
        images = ((synthetic.images + target) / 2).astype(np.uint8)
        return Sample(masks=np.asarray(synthetic.masks), images=images)


class Tiny(Segmenter):
    """One 1x1 convolution."""

    name = "tiny"

    class Parameters(Parameters):
        rate: float = Field(0.5, description="learning rate")
        crash: str = Field("", description="exit, memory or nothing")

    @property
    def label(self):
        return "tiny"

    @property
    def batch_size(self):
        return 4

    def module(self, steps):
        import os

        import torch
        from pytorch_lightning import LightningModule

        parameters = self.parameters

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Conv2d(3, 1, 1)

            def forward(self, images):
                return self.layer(images - 0.5)

            def training_step(self, batch, index):
                images, masks = batch
                if parameters.crash == "exit":
                    os._exit(7)
                self.count = getattr(self, "count", 0) + 1
                if os.environ.get("TINY_LOG"):
                    with open(os.environ["TINY_LOG"], "a") as log:
                        log.write(".")
                if self.count == int(os.environ.get("TINY_DIES_AT") or -1):
                    os._exit(9)
                if parameters.crash == "sleep":
                    import time

                    with open(os.path.join(os.environ["HARNESS_HOME"], "sleeping"), "w"):
                        time.sleep(120)
                if parameters.crash == "memory":
                    raise torch.OutOfMemoryError("asked for too much")
                return torch.nn.functional.binary_cross_entropy_with_logits(self(images), masks)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=parameters.rate)

        return Module()
'''

STUDY = """
title: A study of twelve images
dataset: {{name: twelve, size: 32, split: {{holdout: {{report: 0.34, select: 0.2}}}}}}
generators:
  paint:
    pairs: {{plugin: "{plugins}:Painter", select: {{by: thumbnail-distance, samples: 8}}}}
    refine: [{{plugin: "{plugins}:Dimmer"}}]
segmenters:
  - plugin: "{plugins}:Tiny"
train:
  - {{real: 4}}
  - {{real: 4, synthetic: {{paint: [4, 8]}}}}
budget: {{steps: 4, validations: 2}}
controls: [real-repeated, resample]
seeds: 2
compare: {{against: {{real: 4}}}}
fidelity: {{metrics: [mask-area]}}
report: {{predictions: 2}}
profiles:
  short: {{seeds: 1, controls: []}}
"""


def draw_pair(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Draw a bright disc on a darker noisy ground: uint8 (H, W, 3) and its mask in {0, 255}."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    cy, cx, r = draw.uniform(0.3, 0.7) * size, draw.uniform(0.3, 0.7) * size, draw.uniform(0.15, 0.3) * size
    mask = (y - cy) ** 2 + (x - cx) ** 2 < r * r
    ground = draw.uniform(40, 90, 3) + 25 * np.sin(x * draw.uniform(0.1, 0.4) + y * draw.uniform(0.1, 0.4))[..., None]
    image = np.where(mask[..., None], draw.uniform(160, 230, 3), ground) + draw.normal(0, 12, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), (mask * 255).astype(np.uint8)


def write_images(folder: Path, count: int, first_seed: int = 0) -> Path:
    """Write ``count`` pairs as PNG files into ``folder/images`` and ``folder/masks``."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, mask = draw_pair(first_seed + i)
        Image.fromarray(image).save(folder / "images" / f"frame{i:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"frame{i:02d}.png")
    return folder


@dataclass(frozen=True)
class Answer:
    """What a command said: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.out)


@pytest.fixture
def harness_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of its own: data, store, weights, runs and reports all below a temporary folder."""
    project = tmp_path / "project"
    (project / "studies").mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("HARNESS_HOME", str(project / ".harness"))
    monkeypatch.setenv("HARNESS_MLRUNS", str(project / "mlruns"))
    monkeypatch.setenv("HARNESS_REPORTS", str(project / "reports"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return project


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the real command line in this process."""
    from harness.cli import main

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@dataclass(frozen=True)
class TempStudy:
    """A study on twelve images with one-step plugins, in a project of its own."""

    project: Path
    command: Callable[..., Answer]
    plugins: Path
    name: str = "twelve"

    @property
    def file(self) -> Path:
        """The study's YAML."""
        return self.project / "studies" / f"{self.name}.yaml"

    def run(self, *arguments: str) -> Answer:
        """Run the study in this process, without MLflow."""
        return self.command("study", "run", self.name, "--executor", "in-process", "--no-track", *arguments)

    @property
    def results(self) -> Path:
        """Its ``results.csv``."""
        return self.project / "reports" / self.name / "results.csv"


@pytest.fixture
def temp_study(harness_home: Path, tmp_path: Path, command: Callable[..., Answer]) -> TempStudy:
    """A dozen images, imported; one-step plugins; and a study of them."""
    source = write_images(tmp_path / "twelve", 12)
    plugins = harness_home / "plugins.py"
    plugins.write_text(textwrap.dedent(PLUGINS))
    study = TempStudy(harness_home, command, plugins)
    study.file.write_text(STUDY.format(plugins=plugins))
    answer = command("data", "import", "folder", "--from", str(source), "--name", "twelve")
    assert answer.code == 0, answer.err
    return study

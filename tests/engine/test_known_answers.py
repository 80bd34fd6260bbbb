"""Three tiny studies whose answer is known: synthetic data that must help, copies that cannot, and a leak.

They test the harness as a whole: it must say "helps", say "no evidence", and refuse.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.temp_study import call_silent, move_into

PLUGINS = '''
import numpy as np

from harness.learning import Card, Checkpoint, Generator, Sample, Segmenter


def draw(seed, size):
    """A reddish disc on a bluish ground, each of any brightness: one image cannot tell the two apart, many can."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    cy, cx, r = (random.uniform(*range) * size for range in ((0.1, 0.9), (0.1, 0.9), (0.1, 0.25)))
    mask = (y - cy) ** 2 + (x - cx) ** 2 < r * r
    hues = (np.array([side * 18, random.uniform(-40, 40), -side * 18]) for side in (1, -1))
    disc, ground = (random.uniform(50, 205) + hue for hue in hues)
    image = np.where(mask[..., None], disc, ground) + random.normal(0, 10, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask.astype(np.uint8)


class Oracle(Generator):
    """Draws fresh images from the distribution that the real ones come from: more real data by another name."""

    name = "oracle"
    card = Card(learns=False)

    def fit(self, pairs, context):
        yield Checkpoint(0, context.checkpoint_folder(0))

    def sample(self, checkpoint, seeds, context, masks=None):
        drawn = [draw(int(seed), context.pairs.size[0]) for seed in seeds]
        return Sample(masks=np.stack([m for _, m in drawn]), images=np.stack([i for i, _ in drawn]))


class Copier(Generator):
    """Returns the real pairs again."""

    name = "copier"
    card = Card(learns=False)

    def fit(self, pairs, context):
        yield Checkpoint(0, context.checkpoint_folder(0))

    def sample(self, checkpoint, seeds, context, masks=None):
        chosen = seeds % len(context.pairs)
        sources = tuple((context.pairs.ids[i],) for i in chosen)
        return Sample(masks=context.pairs.masks[chosen], images=context.pairs.images[chosen], sources=sources)


class Forger(Oracle):
    """The real images with masks that are wrong: inside out."""

    name = "forger"

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, seeds, context)
        return Sample(masks=(1 - made.masks).astype(np.uint8), images=made.images)


class Small(Segmenter):
    """A perceptron on the colours of each pixel: learns from many colours what it cannot from one."""

    name = "small"
    label = "small"
    batch_size = 8

    def module(self, steps):
        import torch
        from pytorch_lightning import LightningModule

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 1), torch.nn.ReLU(), torch.nn.Conv2d(12, 1, 1))

            def forward(self, images):
                return self.layers(4 * (images - 0.5))

            def training_step(self, batch, index):
                images, masks = batch
                return torch.nn.functional.binary_cross_entropy_with_logits(self(images), masks)

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=0.02)

        return Module()
'''

STUDY = """
title: {title}
dataset: {{name: discs, size: 32, seed: 1, split: {{holdout: {{report: 0.6, select: 0.1}}}}}}
generators:
  made: {{pairs: {{plugin: "{plugins}:{generator}"}}, sees: recipe}}
segmenters: [{{plugin: "{plugins}:Small"}}]
train:
  - {{real: 3}}
  - {{real: 3, synthetic: {{made: 40}}}}
budget: {{steps: 160, validations: 4}}
controls: []
seeds: 4
report: {{predictions: 0, figures: [variations]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty drawn images in ``discs``, and a ``project`` of all studies: their common arm trains once."""
    from PIL import Image

    root = tmp_path_factory.mktemp("known")
    (root / "project").mkdir()
    (root / "project" / "known.py").write_text(PLUGINS)
    scope: dict[str, Any] = {}
    exec(compile(PLUGINS, "known.py", "exec"), scope)
    for i in range(60):
        image, mask = scope["draw"](10_000 + i, 32)
        for kind, array in (("images", image), ("masks", mask * 255)):
            (root / "discs" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / "discs" / kind / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        move_into(root / "project", patch)
        call_silent("data", "import", "folder", "--from", str(root / "discs"), "--name", "discs")
    return root


@pytest.fixture
def discs(folder: Path, monkeypatch: pytest.MonkeyPatch, command: Any) -> Any:
    """A way to run a study of one generator on the drawn images."""
    project = folder / "project"
    move_into(project, monkeypatch)

    def run(generator: str, *arguments: str) -> tuple[Any, str]:
        study = project / "studies" / "known.yaml"
        study.write_text(STUDY.format(title=generator, plugins=project / "known.py", generator=generator))
        done = command("study", "run", "known", "--executor", "in-process", "--no-track", *arguments)
        table = project / "reports" / "known" / "tables" / "comparison.csv"
        return done, table.read_text() if table.is_file() else ""

    return run


def test_synthetic_data_that_helps_by_construction_is_said_to_help(discs: Any) -> None:
    done, verdict = discs("Oracle")
    assert done.code == 0, done.err
    assert "helps" in verdict
    assert "no evidence" not in verdict


def test_copies_are_no_evidence(discs: Any) -> None:
    done, verdict = discs("Copier")
    assert done.code == 0, done.err
    assert "no evidence either way" in verdict
    assert "helps" not in verdict


def test_wrong_masks_are_said_to_hurt(discs: Any) -> None:
    done, verdict = discs("Forger")
    assert done.code == 0, done.err
    assert "hurts" in verdict


def test_a_leak_is_refused_and_not_comparable(discs: Any, folder: Path, tmp_path: Path, command: Any) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(folder / "discs", copies)
    for path in sorted(copies.glob("*/*.png")):
        path.rename(path.with_name(f"again{path.name}"))
    assert command("data", "import", "folder", "--from", str(copies), "--name", "copies").code == 0
    done, verdict = discs("Oracle", "--set", "evaluate.on=[copies]", "--set", "seeds=2")
    assert done.code == 1
    assert "refused" in done.err
    assert "helps" not in verdict

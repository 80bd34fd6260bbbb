"""The conformance suite of segmenters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.conformance.checks import Checks, drawn_pairs, example_values, require
from harness.learning.optimisation import Optimisation
from harness.plugins.contract import Segmenter

if TYPE_CHECKING:
    import torch
    from pytorch_lightning import LightningModule


class SegmenterSuite:
    """The checks of a segmenter."""

    def __init__(self, plugin: type[Segmenter]) -> None:
        import torch

        drawn = drawn_pairs(4, 64)
        self.plugin = plugin
        self.values = example_values(plugin)
        self.images = torch.from_numpy(np.array(drawn.images)).permute(0, 3, 1, 2).float() / 255
        self.masks = torch.from_numpy(np.array(drawn.masks))[:, None].float()

    def run(self, checks: Checks) -> None:
        """Run them all."""
        checks.run("label", self._check_label)
        if not checks.run("module", self._check_module):
            return checks.skip(["forward", "training step", "same seed", "save and load"], "the module cannot be built")
        checks.run("forward", self._check_forward)
        checks.run("training step", self._check_training_step)
        checks.run("same seed", self._check_same_seed)
        checks.run("save and load", self._check_save_and_load)
        return None

    def _build(self, seed: int = 0) -> LightningModule:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: LightningModule = self.plugin.create(**self.values).module(steps=10)
        return module

    def _forward(self, module: LightningModule) -> torch.Tensor:
        import torch

        with torch.no_grad():
            logits: torch.Tensor = module.eval()(self.images)
        return logits

    def _check_label(self) -> str:
        segmenter = self.plugin.create(**self.values)
        label, batch = segmenter.label, segmenter.batch_size
        require(isinstance(label, str) and bool(label.strip()), f"Its label is {label!r}; tables need a short name.")
        require(
            not set(label) & set(" *=,"), f"Its label {label!r} holds a space or one of * = , which cell labels use."
        )
        require(
            isinstance(batch, int) and batch >= 1,
            f"Its batch_size is {batch!r}; it must be a whole number of at least 1.",
        )
        notes = segmenter.notes()
        require(
            all(isinstance(note, str) and note for note in notes), f"Its notes are {notes!r}; they must be sentences."
        )
        return f"{label}, {batch} images a step."

    def _check_module(self) -> str:
        module = self._build()
        Optimisation(module, self.plugin.create(**self.values).batch_size, len(self.images))
        count = sum(parameter.numel() for parameter in module.parameters())
        require(count > 0, "The module has no parameters to train.")
        return f"{count:,} parameters."

    def _check_forward(self) -> str:
        logits = self._forward(self._build())
        require(
            logits.shape == self.masks.shape,
            f"forward returned {tuple(logits.shape)}; logits are {tuple(self.masks.shape)}.",
        )
        require(bool(logits.isfinite().all()), "forward returned values that are not finite.")
        return f"Images {tuple(self.images.shape)} to logits {tuple(logits.shape)}."

    def _check_training_step(self) -> str:
        import torch

        module = self._build().train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            loss = module.training_step((self.images.clone(), self.masks.clone()), 0)
        value = loss["loss"] if isinstance(loss, dict) else loss
        require(
            isinstance(value, torch.Tensor) and value.ndim == 0,
            f"training_step returned {type(value).__name__}, not a scalar tensor.",
        )
        assert isinstance(value, torch.Tensor)
        require(bool(value.isfinite()), f"The loss is {float(value)}.")
        value.backward()
        gradients = [p.grad for p in module.parameters() if p.requires_grad and p.grad is not None]
        require(bool(gradients), "No parameter received a gradient from the loss.")
        require(all(bool(g.isfinite().all()) for g in gradients), "A gradient is not finite.")
        require(any(bool(g.abs().max() > 0) for g in gradients), "All gradients are zero.")
        return f"Loss {float(value):.3f} with finite gradients."

    def _check_same_seed(self) -> str:
        import torch

        first, second = self._build(3).state_dict(), self._build(3).state_dict()
        differing = [name for name in first if not torch.equal(first[name], second[name])]
        require(
            not differing,
            f"Built twice from one global seed, {differing[:1]} differs; draw weights from torch's global generator.",
        )
        return "One global seed, one initialisation."

    def _check_save_and_load(self) -> str:
        import torch

        module, other = self._build(0), self._build(8)
        expected = self._forward(module)
        other.load_state_dict(module.state_dict())
        require(
            torch.equal(self._forward(other), expected),
            "Loaded into a second module, the same weights give other logits.",
        )
        return "Its weights carry everything that forward needs."

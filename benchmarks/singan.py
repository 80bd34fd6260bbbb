"""How many single-image models an hour: batched, against one at a time in the usual way, with the same arithmetic.

    python -m benchmarks.singan [--size 64] [--models 1 4 16] [--epochs 4] [--rounds 2] [--device cpu] [--threads 1]

The plain loop trains one image with ordinary modules in float32: one pass at a time, the gradient penalty by autograd's
second derivative, the finished scales run again for every draw. Both do the same updates (``setting: sound``); that
they end at the same weights is tested in ``tests/generators/test_singan_seg.py``. A few epochs of every scale are
timed, in turns and in one run, and models an hour are for the published 2000 epochs a scale. Ratios count; times are
of this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from generators.singan_seg.batch import ModelBatch
from generators.singan_seg.networks import width
from generators.singan_seg.parameters import SinGANSegParameters
from generators.singan_seg.pyramid import Pyramid
from generators.singan_seg.training import BLOCK
from harness.conformance import drawn_pairs

_PUBLISHED_EPOCHS = 2000


def _network(features: int, ends_in: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (4, features, features, features):
        layers += [nn.Conv2d(before, features, 3), nn.BatchNorm2d(features), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(features, ends_in, 3))


class PlainScale:
    """One scale of one model, written the usual way."""

    def __init__(self, settings: SinGANSegParameters, pyramid: Pyramid, scale: int, device: torch.device) -> None:
        """Build networks and optimisers; ``lower`` stands for finished scales with the cost of real ones."""

        def built(at: int, ends_in: int) -> nn.Sequential:
            features = width(at, settings.features, settings.features_double_every, settings.largest_features)
            return _network(features, ends_in).to(device)

        self.settings, self.pyramid, self.scale, self.device = settings, pyramid, scale, device
        self.generator, self.critic = built(scale, 4), built(scale, 1)
        self.lower = [built(at, 4).eval().requires_grad_(False) for at in range(scale)]
        self.real = torch.rand(1, 4, *pyramid.sizes[scale], device=device) * 2 - 1
        self.optimisers = [
            torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas)
            for network in (self.generator, self.critic)
        ]

    def _noise(self, scale: int) -> Tensor:
        return torch.randn(1, 4, *self.pyramid.sizes[scale], device=self.device)

    def _made(self, network: nn.Module, noise: Tensor, before: Tensor) -> Tensor:
        made: Tensor = network(functional.pad(noise, (5,) * 4) + functional.pad(before, (5,) * 4))
        return made.tanh() + before

    def _before(self) -> Tensor:
        pictures = torch.zeros(1, 4, *self.pyramid.sizes[0], device=self.device)
        for scale, network in enumerate(self.lower):
            pictures = self.pyramid.finer(self._made(network, self._noise(scale), pictures), scale + 1)
        return pictures

    def epoch(self) -> None:
        """Update critic and generator as often as an epoch does."""
        for _ in range(self.settings.critic_steps):
            with torch.no_grad():
                fake = self._made(self.generator, self._noise(self.scale), self._before())
            between = torch.lerp(fake, self.real, torch.rand(1, device=self.device)).requires_grad_()
            scores = self.critic(between)
            (gradient,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
            penalty = (gradient.norm(dim=1) - 1).square().mean()
            loss = self.critic(fake).mean() - self.critic(self.real).mean() + self.settings.gradient_penalty * penalty
            self.optimisers[1].zero_grad()
            loss.backward()
            self.optimisers[1].step()
        for _ in range(self.settings.generator_steps):
            fake = self._made(self.generator, self._noise(self.scale), self._before())
            rebuilt = self._made(self.generator, torch.zeros_like(self.real), self.real)
            error = functional.mse_loss(rebuilt, self.real)
            self.optimisers[0].zero_grad()
            (self.settings.reconstruction * error - self.critic(fake).mean()).backward()
            self.optimisers[0].step()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes: processor time of one core, where others may be at work, else time on the clock."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        start = time.process_time()
        work()
        return time.process_time() - start

    def finished() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    finished()
    start = time.perf_counter()
    work()
    finished()
    return time.perf_counter() - start


class Batched:
    """A batch whose scales are all begun, so that a few epochs of any can be timed."""

    def __init__(self, settings: SinGANSegParameters, models: int, size: int, device: torch.device) -> None:
        """Train a few epochs of each scale: the next needs finished ones, and on a GPU the first are slow."""
        warm = settings.model_copy(update={"epochs": BLOCK})
        batch = ModelBatch(warm, drawn_pairs(models, size), 0, device)
        self.scales = [batch.training]
        for _ in batch.train():
            if self.scales[-1] is not batch.training:
                self.scales.append(batch.training)
        self.sizes = batch.pyramid.sizes

    def epochs(self, scale: int, count: int) -> None:
        """Train a scale for so many epochs more."""
        training = self.scales[scale]
        for _ in training.run(training.epoch + count):
            training.history.clear()


def main() -> None:
    """Measure and print one line a scale and one for the whole."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--size", type=int, default=64)
    asked.add_argument("--models", type=int, nargs="+", default=[1, 4, 16])
    asked.add_argument("--epochs", type=int, default=BLOCK)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--precision", nargs="+", default=["float32", "auto"])
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--threads", type=int, default=1)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    plain = SinGANSegParameters(precision="float32")
    pyramid = Pyramid.of(options.size, options.size, plain.min_size, options.size, plain.scale_factor)
    one_by_one = [PlainScale(plain, pyramid, scale, device) for scale in range(len(pyramid.sizes))]
    forms = {
        (models, precision): Batched(plain.model_copy(update={"precision": precision}), models, options.size, device)
        for models in options.models
        for precision in options.precision
    }
    names = [f"K={models} {precision}" for models, precision in forms]
    print(f"seconds a model and epoch, and the ratio to one at a time; {device}, {options.threads} thread(s)")
    print(f"{'scale':>12} {'one at a time':>14} " + " ".join(f"{name:>16}" for name in names))
    totals = [0.0] * (1 + len(forms))
    for scale, size in enumerate(pyramid.sizes):
        best = [float("inf")] * (1 + len(forms))
        for _ in range(options.rounds):

            def usual(scale: int = scale) -> None:
                for _ in range(options.epochs):
                    one_by_one[scale].epoch()

            best[0] = min(best[0], seconds(usual, device) / options.epochs)
            for i, ((models, _), batched) in enumerate(forms.items(), start=1):
                spent = seconds(lambda b=batched, s=scale: b.epochs(s, options.epochs), device)  # type: ignore[misc]
                best[i] = min(best[i], spent / options.epochs / models)
        totals = [total + own for total, own in zip(totals, best, strict=True)]
        cells = " ".join(f"{own:>9.4f} {best[0] / own:>5.2f}x" for own in best[1:])
        print(f"{size[0]:>5} x {size[1]:<4} {best[0]:>14.4f} {cells}", flush=True)
    hourly = [3600 / (total * _PUBLISHED_EPOCHS) for total in totals]
    cells = " ".join(f"{own:>9.3f} {own / hourly[0]:>5.2f}x" for own in hourly[1:])
    print(f"{'models/hour':>12} {hourly[0]:>14.3f} {cells}")


if __name__ == "__main__":
    main()

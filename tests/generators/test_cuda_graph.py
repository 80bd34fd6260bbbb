"""Steps that a GPU replays: what they do there, and that a CPU just calls them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from generators.cuda_graph import CapturedStep, set_capturable, set_rate
from generators.diffusion.denoiser import Denoiser, Shape
from generators.diffusion.examples import PixelExamples
from generators.diffusion.parameters import DiffusionParameters
from generators.diffusion.process import Process
from generators.diffusion.sampling import denoise
from generators.diffusion.training import DiffusionTraining
from generators.first_stage import training as first_stage
from generators.first_stage.parameters import FirstStageParameters
from generators.four_channel_gan.pictures import RealPictures
from generators.mask_ddpm import MaskDDPMParameters
from generators.singan_seg.batch import ModelBatch
from generators.singan_seg.parameters import SinGANSegParameters
from harness.conformance import drawn_pairs
from harness.learning.perceptual import VGG, PerceptualNetwork
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint
from harness.plugins.registry import load_plugin

CPU = torch.device("cpu")


def test_a_cpu_calls_the_function_each_time() -> None:
    calls = []

    def function(number: Tensor) -> Tensor:
        calls.append(float(number))
        return number + 1

    step = CapturedStep(function)
    assert [float(step(torch.tensor(float(n)))) for n in range(6)] == [1, 2, 3, 4, 5, 6]
    assert calls == [0, 1, 2, 3, 4, 5]


def moved(network: nn.Module, optimiser: torch.optim.Optimizer) -> list[Tensor]:
    optimiser.zero_grad()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimiser.step()
    return [old - new.detach() for old, new in zip(before, network.parameters(), strict=True)]


def test_the_rate_that_is_set_is_the_one_that_adam_steps_by() -> None:
    network = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters(), 0.5, fused=True)
    set_rate(optimiser, 0.125)
    for difference in moved(network, optimiser):
        torch.testing.assert_close(difference, torch.full_like(difference, 0.125))


def test_a_state_that_a_gpu_saved_goes_on_on_a_cpu() -> None:
    """There the rate is a tensor and the steps are capturable, neither of which a CPU's fused Adam takes."""
    network = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters(), 0.5, fused=True)
    moved(network, optimiser)
    state = optimiser.state_dict()
    state["param_groups"][0] |= {"capturable": True, "lr": torch.tensor(0.25)}
    fresh = torch.optim.Adam(network.parameters(), 0.5, fused=True)
    fresh.load_state_dict(state)
    set_capturable(fresh, CPU)
    assert fresh.param_groups[0]["capturable"] is False
    assert fresh.param_groups[0]["lr"] == 0.25
    for difference in moved(network, fresh):
        torch.testing.assert_close(difference, torch.full_like(difference, 0.25))


@pytest.mark.gpu
def test_replayed_calls_take_new_inputs_and_old_answers_stay() -> None:
    total = torch.zeros(2, device="cuda")

    def function(added: Tensor) -> Tensor:
        total.add_(added)
        return total * 2

    step = CapturedStep(function)
    answers = [step(torch.tensor([n, -n], dtype=torch.float32, device="cuda")) for n in range(1, 9)]
    sums = np.cumsum(range(1, 9))
    assert [answer.tolist() for answer in answers] == [[2 * s, -2 * s] for s in sums]


@pytest.mark.gpu
def test_recorded_epochs_of_singan_seg_end_where_called_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.deterministic = True
    pairs, made = drawn_pairs(3, 32), []
    for warm_up in (3, 10**9):
        monkeypatch.setattr("generators.cuda_graph._WARM_UP", warm_up)
        batch = ModelBatch(
            SinGANSegParameters(epochs=12, features=8, precision="float32"), pairs, 0, torch.device("cuda")
        )
        for _ in batch.train():
            pass
        made.append(batch.weights())
    for name, recorded in made[0].items():
        torch.testing.assert_close(recorded, made[1][name], atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_recorded_predictions_give_the_samples_that_called_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Denoiser(1, 16, Shape((8, 16), 1, 8, 4)).to("cuda").eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    settings = MaskDDPMParameters(network="tiny", precision="float32", sampling_steps=12)
    made = []
    for warm_up in (3, 10**9):
        monkeypatch.setattr("generators.cuda_graph._WARM_UP", warm_up)
        made.append(denoise(network, settings, (1, 16, 16), np.arange(5), torch.device("cuda")))
    torch.testing.assert_close(*made, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 3])
def test_recorded_steps_of_diffusion_end_where_called_ones_do(monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda")
    settings = DiffusionParameters(
        batch_size=6, timesteps=20, sampling_steps=4, precision="float32", accumulate=accumulate
    )
    pictures = (torch.rand(10, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8) * 255
    made, losses = [], []
    for warm_up in (3, 10**9):
        monkeypatch.setattr("generators.cuda_graph._WARM_UP", warm_up)
        training = DiffusionTraining(
            settings,
            PixelExamples(pictures.to(device), None, "both"),
            lambda: Denoiser(1, 16, Shape((8, 16), 1, 8, 4), learned_variance=True),
            Process(settings, device, learned_variance=True),
            0,
            device,
        )
        losses.append([float(training.step(step)["loss"]) for step in range(10)])
        made.append(torch.cat([p.detach().flatten() for p in training.denoiser.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(*made, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("gan", "values"),
    [
        ("dcgan", {}),
        ("progan", {"doubling": "nearest", "full_size_share": 0.5, "fade": 0.6}),
        ("progan", {"doubling": "nearest", "loss": "non-saturating", "full_size_share": 0.5, "fade": 0.6}),
        ("fastgan", {"reconstruction": "l1", "reconstruction_interval": 2}),
    ],
)
def test_recorded_steps_of_gans_end_where_called_ones_do(
    monkeypatch: pytest.MonkeyPatch, gan: str, values: dict[str, Any]
) -> None:
    """Of each kind of step there are enough that it is recorded; weights end apart by little of the way they went."""
    torch.backends.cudnn.deterministic = True
    plugin = load_plugin("generators", gan)
    small = {"steps": 80, "precision": "float32", "learning_rate": 1e-4, "discriminator_learning_rate": 1e-4}
    ends = []
    for warm_up in (3, 10**9):
        monkeypatch.setattr("generators.cuda_graph._WARM_UP", warm_up)
        generator = plugin.create(**{**plugin.example(), **small, **values})
        context = SimpleNamespace(device=torch.device("cuda"), seed=0, note=print)
        training = generator.training(RealPictures(drawn_pairs(8, 32), 32, context.device), context)
        start = [parameter.detach().clone() for parameter in training.averaged.parameters()]
        for step in range(80):
            training.step(step)
        assert (warm_up > 3) != any(step._graph for step in training._steps.values())
        ends.append([parameter.detach() for parameter in training.averaged.parameters()])

    assert distance(*ends) < 0.02 * distance(start, ends[1])


@pytest.mark.gpu
@pytest.mark.parametrize("values", [{"adversarial_start": 0}, {"adversarial_start": 20, "judging_interval": 2}])
def test_recorded_steps_of_the_first_stage_end_where_called_ones_do(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda")
    torch.manual_seed(0)
    perceptual = PerceptualNetwork(VGG((1, 1), (0.5,) * 3, (0.2,) * 3), None, "two random layers", "").to(device)
    monkeypatch.setattr(first_stage, "perceptual_network", lambda *_, **__: perceptual)
    images = torch.from_numpy(np.array(drawn_pairs(8, 32).images)).permute(0, 3, 1, 2).to(device)
    small = {"network": "tiny", "steps": 60, "batch_size": 4, "discriminator_features": 8, "precision": "float32"}
    settings = FirstStageParameters(**{**small, "learning_rate": 1e-4, "judging_interval": 1, **values})
    ends, told = [], []
    for warm_up in (3, 10**9):
        monkeypatch.setattr("generators.cuda_graph._WARM_UP", warm_up)
        training = first_stage.FirstStageTraining(settings, images, 0, device)
        weights = [*training.autoencoder.parameters(), *training.discriminator.parameters()]
        start = [parameter.detach().clone() for parameter in weights]
        told.append([{name: float(value) for name, value in training.step(step).items()} for step in range(60)])
        assert (warm_up > 3) != all(step._graph for step in training._steps.values())
        ends.append([parameter.detach() for parameter in weights])
    assert [list(one) for one in told[0]] == [list(one) for one in told[1]]
    assert [one["l1-loss"] for one in told[0]] == pytest.approx([one["l1-loss"] for one in told[1]], rel=0.01)
    assert distance(*ends) < 0.02 * distance(start, ends[1])


class Kill(BaseException):
    """Ends a fit as the operating system would."""


class Counting(WorkFolder):
    """Counts the steps of a fit, and saves no state."""

    steps = 0

    def should_save(self) -> bool:
        self.steps += 1
        return False


class Killing(Counting):
    """Saves a fit's state once, and kills the fit at the next step."""

    def should_save(self) -> bool:
        super().should_save()
        if self.steps == 25:
            raise Kill
        return self.steps == 24


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dcgan", "progan", "fastgan", "mask-ddpm", "mask-ldm", "singan-seg"])
def test_a_killed_fit_resumes_on_a_gpu(tmp_path: Path, name: str) -> None:
    """The state goes through a file, then steps are recorded anew; rounding differs, so what is left must be little."""
    torch.backends.cudnn.deterministic = True
    plugin = load_plugin("generators", name)
    several = {"epochs": 8} if name == "singan-seg" else {"steps": 60, "checkpoints": (10, 60)}
    rates = {"learning_rate": 1e-4, "discriminator_learning_rate": 1e-4} if name.endswith("gan") else {}
    # The gradient of bilinear doubling adds up in another order each time.
    doubling = {"doubling": "nearest"} if name == "progan" else {}
    declared = {**plugin.example(), **several, **rates, **doubling, "precision": "float32"}
    pairs, device = drawn_pairs(6, 32), torch.device("cuda")
    with pytest.raises(Kill):
        run_fit(plugin.create(**declared), pairs, Killing(tmp_path / "killed", device, 1))
    assert (tmp_path / "killed" / "state.pt").exists()
    contexts = [Counting(tmp_path / place, device, 1) for place in ("killed", "whole")]
    resumed, whole = (run_fit(plugin.create(**declared), pairs, context) for context in contexts)
    assert contexts[0].steps == contexts[1].steps - 24
    assert [c.step for c in resumed] == [c.step for c in whole]
    end = weights_of(whole[-1])
    # Its checkpoints are of more and more models, not of more and more steps.
    start = [tensor.new_zeros(tensor.shape) for tensor in end] if name == "singan-seg" else weights_of(whole[0])
    assert distance(weights_of(resumed[-1]), end) < 0.05 * distance(start, end)


def weights_of(checkpoint: Checkpoint) -> list[Tensor]:
    files = sorted(checkpoint.folder.rglob("*.safetensors"))
    found = [load_file(path) for path in files]
    return [tensor.float() for state in found for _, tensor in sorted(state.items())]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return how far weights are apart."""
    return float(torch.stack([(a - b).square().sum() for a, b in zip(one, other, strict=True)]).sum().sqrt())

"""Latent diffusion for given masks as a plugin: both parts of its fit, and that no parameter is ignored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from generators.diffusion.examples import LatentExamples
from generators.diffusion.training import DiffusionTraining
from generators.first_stage import reconstruction, training
from generators.first_stage.autoencoder import build, load, save
from generators.first_stage.parameters import FirstStageParameters
from generators.first_stage.reconstruction import psnr, reconstruct, ssim
from generators.mask_ldm import MaskLDM
from harness.conformance import drawn_pairs
from harness.errors import HarnessError, OutOfMemory, WeightsError
from harness.learning.perceptual import VGG, PerceptualNetwork
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, SampleContext

CPU = torch.device("cpu")
PAIRS = drawn_pairs(6, 16)
MASKS = drawn_pairs(20, 16, seed=1).masks
NOTE = "Perceptual distances are of a few random layers, so they are not LPIPS."

FIRST_STAGE: dict[str, Any] = {
    "network": "tiny",
    "steps": 2,
    "batch_size": 2,
    "perceptual_weight": 0.0,
    "adversarial_start": 1,
    "judging_interval": 1,
    "discriminator_features": 4,
    "precision": "float32",
}
#: A fit of a third of a second.
SMALL: dict[str, Any] = {
    "network": "tiny",
    "first_stage": FIRST_STAGE,
    "steps": 2,
    "batch_size": 4,
    "checkpoints": 1,
    "grids": 0,
    "timesteps": 20,
    "sampling_steps": 4,
    "attention": (4,),
    "precision": "float32",
}
PIXELS: dict[str, Any] = {**SMALL, "first_stage": None, "attention": (8,)}


def fit(folder: Path, values: dict[str, Any], seed: int = 0) -> tuple[list[Checkpoint], WorkFolder]:
    opened = WorkFolder(folder, CPU, seed)
    return run_fit(MaskLDM.create(**values), PAIRS, opened), opened


def sample(checkpoint: Checkpoint, values: dict[str, Any], masks: np.ndarray = MASKS[:4]) -> np.ndarray:
    made = MaskLDM.create(**values).sample(checkpoint, np.arange(len(masks)), SampleContext(CPU, PAIRS), masks)
    assert np.array_equal(made.masks, masks)
    assert made.images is not None
    return made.images


def weights(checkpoint: Checkpoint, name: str = "denoiser") -> bytes:
    return (checkpoint.folder / f"{name}.safetensors").read_bytes()


def logged(opened: WorkFolder) -> dict[tuple[str, int], float]:
    """Return what is logged, but for what depends on the clock."""
    return {(r["name"], r["step"]): r["value"] for r in opened.metrics() if "images-per-second" not in r["name"]}


def pictures(opened: WorkFolder) -> dict[str, bytes]:
    root = opened.folder / "images"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a machine may lack, and what costs time: the FID of reconstructions, and grids of many steps."""
    monkeypatch.setattr(reconstruction, "find", lambda name: None)
    monkeypatch.setattr("generators.diffusion.generator._GRID_STEPS", 2)


@pytest.fixture
def no_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what costs most of a short fit: sampling beside each checkpoint."""

    def black(self: Any, network: Any, autoencoder: Any, config: Any, settings: Any, seeds: Any, *_: Any) -> np.ndarray:
        return np.zeros((len(seeds), config["side"], config["side"], 3), np.uint8)

    monkeypatch.setattr(MaskLDM, "_images", black)


@pytest.fixture
def random_perceptual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perceptual network with random weights, in the place of the one that a machine may have."""

    def made(device: torch.device, blocks: int) -> PerceptualNetwork:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return PerceptualNetwork(VGG((1,) * blocks, (0.5,) * 3, (0.2,) * 3), None, "random layers", NOTE)

    monkeypatch.setattr(training, "perceptual_network", made)


# resuming


class Kill(BaseException):
    pass


class Killing(WorkFolder):
    """Saves when it is asked for the n-th time, and kills the fit when it is asked next.

    It can also kill the fit right after the first state that it saves unasked: that of a first stage that is done.
    """

    def __init__(self, folder: Path, at: int | None) -> None:
        super().__init__(folder, CPU, 1)
        self.at, self.asked = at, 0

    def should_save(self) -> bool:
        self.asked += 1
        if self.at is not None and self.asked > self.at:
            raise Kill
        return self.asked == self.at

    def save_state(self, state: dict[str, Any]) -> None:
        super().save_state(state)
        if self.at is None:
            raise Kill


#: Whatever has a state of its own in either part. 5 steps of the first stage, then 6 of the denoiser.
STATEFUL: dict[str, Any] = {
    **SMALL,
    "first_stage": {**FIRST_STAGE, "steps": 5, "revive_interval": 2},
    "steps": 6,
    "checkpoints": (3, 6),
    "grids": 2,
    "warmup_steps": 2,
    "dropout": 0.2,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Checkpoint], WorkFolder]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "find", lambda name: None)
        patch.setattr("generators.diffusion.generator._GRID_STEPS", 2)
        yield fit(tmp_path_factory.mktemp("whole"), STATEFUL, seed=1)


@pytest.mark.parametrize("at", [2, 4, None, 6, 8], ids=["first", "first-late", "between", "denoiser", "checkpoint"])
def test_a_killed_fit_resumes_bit_equal(
    tmp_path: Path, uninterrupted: tuple[list[Checkpoint], WorkFolder], at: int | None
) -> None:
    with pytest.raises(Kill):
        run_fit(MaskLDM.create(**STATEFUL), PAIRS, Killing(tmp_path, at))
    torch.rand(3)  # the global random state of a new process is another
    checkpoints, opened = fit(tmp_path, STATEFUL, seed=1)
    whole, whole_context = uninterrupted
    assert [c.step for c in checkpoints] == [c.step for c in whole] == [3, 6]
    for one, other in zip(checkpoints, whole, strict=True):
        for name in ("denoiser.safetensors", "first-stage.safetensors", "config.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert logged(opened) == logged(whole_context)
    assert pictures(opened) == pictures(whole_context)


def test_a_first_stage_that_is_done_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Kill):
        run_fit(MaskLDM.create(**STATEFUL), PAIRS, Killing(tmp_path, None))
    monkeypatch.setattr(training.FirstStageTraining, "step", None)
    assert fit(tmp_path, STATEFUL, seed=1)[0][-1].step == 6


# checkpoints and samples


@pytest.mark.parametrize("values", [SMALL, PIXELS], ids=["latents", "pixels"])
def test_a_checkpoint_is_all_that_sampling_needs(tmp_path: Path, values: dict[str, Any]) -> None:
    checkpoints, _ = fit(tmp_path / "fit", values)
    (checkpoint,) = checkpoints
    files = ["config.json", "denoiser.safetensors"] + (["first-stage.safetensors"] if values is SMALL else [])
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == files
    expected = sample(checkpoint, values, MASKS)
    assert expected.shape == (20, 16, 16, 3)
    assert expected.dtype == np.uint8
    moved = Checkpoint(checkpoint.step, Path(shutil.move(checkpoint.folder, tmp_path / "moved")))
    shutil.rmtree(tmp_path / "fit")
    assert np.array_equal(sample(moved, values, MASKS), expected)
    assert sample(moved, values, MASKS[:0]).shape == (0, 16, 16, 3)
    config = json.loads((moved.folder / "config.json").read_text())
    assert (config["plugin"], config["step"], config["side"]) == ("mask-ldm", 2, 16)
    assert config["factor"] == (4 if values is SMALL else 1)


def test_masks_of_another_size_are_refused(tmp_path: Path, no_grids: None) -> None:
    checkpoint = fit(tmp_path, PIXELS)[0][-1]
    plugin, context = MaskLDM.create(**PIXELS), SampleContext(CPU, PAIRS)
    with pytest.raises(
        HarnessError, match="mask-ldm was fitted on masks of 16 px and makes images for such; got 8 x 8"
    ):
        plugin.sample(checkpoint, np.arange(2), context, MASKS[:2, :8, :8])
    with pytest.raises(HarnessError, match="got none"):
        plugin.sample(checkpoint, np.arange(2), context)


def test_pictures_depend_on_masks(tmp_path: Path, no_grids: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on pictures that are bright where the mask is, samples are so for masks that it has not seen."""
    masks = drawn_pairs(24, 16).masks
    images = np.where(masks[..., None], np.uint8([230, 200, 180]), np.uint8([60, 30, 20]))
    told = drawn_pairs(24, 16)
    told = type(told)(images, masks, told.ids, told.groups, told.lineage)
    values = {**PIXELS, "steps": 40, "batch_size": 8, "learning_rate": 6e-3, "ema": 0.9, "patch": 2}
    (checkpoint,) = run_fit(MaskLDM.create(**values), told, WorkFolder(tmp_path, CPU, 0))
    monkeypatch.undo()
    new = MASKS[MASKS.any((1, 2))][:8]
    made = sample(checkpoint, values, new).mean(axis=3)
    inside, outside = made[new == 1], made[new == 0]
    assert inside.mean() > outside.mean() + 60
    wrong = sample(checkpoint, values, np.roll(new, 8, axis=2)).mean(axis=3)
    assert wrong[new == 1].mean() < outside.mean() + 60


@pytest.mark.parametrize("scaled", [True, False])
def test_latents_are_scaled_to_standard_deviation_1_or_left(
    tmp_path: Path, no_grids: None, monkeypatch: pytest.MonkeyPatch, scaled: bool
) -> None:
    kept: list[LatentExamples] = []
    start = DiffusionTraining.__init__

    def watched(self: Any, settings: Any, examples: Any, *rest: Any, **named: Any) -> None:
        kept.append(examples)
        start(self, settings, examples, *rest, **named)

    monkeypatch.setattr(DiffusionTraining, "__init__", watched)
    values = {**SMALL, "scale_latents": scaled, "flip": "none"}
    checkpoint = fit(tmp_path, values)[0][-1]
    latents, _ = kept[0].batch(np.arange(len(PAIRS)), torch.Generator())
    autoencoder = load(checkpoint.folder / "first-stage.safetensors")
    with torch.no_grad():
        own = autoencoder.encode(torch.from_numpy(PAIRS.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1)
    scale = json.loads((checkpoint.folder / "config.json").read_text())["scale"]
    torch.testing.assert_close(latents, own * scale, atol=1e-4, rtol=1e-4)
    if scaled:
        assert float(latents.std()) == pytest.approx(1, rel=1e-4)
        assert float(own.std()) != pytest.approx(1, rel=0.05)
    else:
        assert scale == 1


def test_latents_are_brought_back_to_their_scale_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the denoiser makes the scaled latents of real images, samples are the reconstructions of these."""
    checkpoint = fit(tmp_path, SMALL)[0][-1]
    autoencoder = load(checkpoint.folder / "first-stage.safetensors")
    scale = json.loads((checkpoint.folder / "config.json").read_text())["scale"]
    with torch.no_grad():
        latents = autoencoder.encode(torch.from_numpy(PAIRS.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1)
    monkeypatch.setattr("generators.diffusion.sampling.denoise", lambda *_, **__: latents * scale)
    made = sample(checkpoint, SMALL, PAIRS.masks).astype(int)
    assert np.abs(made - reconstruct(autoencoder, PAIRS.images, CPU)).max() <= 1


# the first stage


def autoencoder_file(path: Path) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = build("tiny")
        torch.nn.init.normal_(made.codebook)
    save(made, path)
    return made.eval()


def test_a_first_stage_in_a_file_is_loaded_and_not_trained(
    tmp_path: Path, no_grids: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = autoencoder_file(tmp_path / "given.safetensors")
    monkeypatch.setattr(training.FirstStageTraining, "__init__", None)
    values = {**SMALL, "first_stage": {"file": str(tmp_path / "given.safetensors"), "network": "tiny"}}
    checkpoints, opened = fit(tmp_path / "fit", values)
    kept = load_file(checkpoints[-1].folder / "first-stage.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in given.model.state_dict().items())
    # Its reconstructions of the training images are measured, before the first step.
    made = reconstruct(given, PAIRS.images, CPU)
    values_logged = logged(opened)
    assert values_logged["first-stage-psnr", 0] == pytest.approx(psnr(PAIRS.images, made).mean(), rel=1e-4)
    assert values_logged["first-stage-ssim", 0] == pytest.approx(ssim(PAIRS.images, made).mean(), rel=1e-4)
    assert "reconstructions/0.png" in pictures(opened)
    assert opened.notes() == []


def test_a_first_stage_file_of_another_network_is_refused(tmp_path: Path) -> None:
    autoencoder_file(tmp_path / "given.safetensors")
    values = {**SMALL, "first_stage": {"file": str(tmp_path / "given.safetensors"), "network": "small"}}
    with pytest.raises(WeightsError, match="holds the network 'tiny', not 'small'; write network: tiny"):
        fit(tmp_path / "fit", values)


def test_the_first_stage_is_measured_once_and_its_perceptual_network_noted_once(
    tmp_path: Path, no_grids: None, random_perceptual_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generators.stepped_fit._LOG_EVERY", 6)
    values = {**SMALL, "first_stage": {**FIRST_STAGE, "steps": 6, "perceptual_weight": 0.5}}
    with pytest.raises(Kill):
        run_fit(MaskLDM.create(**values), PAIRS, Killing(tmp_path, 7))
    _, opened = fit(tmp_path, values, seed=1)
    rows = [(row["name"], row["step"]) for row in opened.metrics()]
    for name in ("psnr", "ssim", "l1-loss", "perceptual-loss", "codebook-usage", "images-per-second"):
        assert [step for other, step in rows if other == f"first-stage-{name}"] == [6]
    assert "reconstructions/6.png" in pictures(opened)
    assert opened.notes() == [f"First stage: {NOTE}"]


# what is told


def test_curves_and_grids_are_logged(tmp_path: Path) -> None:
    _, opened = fit(tmp_path, {**PIXELS, "steps": 20, "grids": 4, "checkpoints": 2})
    names = {(row["name"], row["step"]) for row in opened.metrics()}
    quarters = ["loss-timesteps-0-4", "loss-timesteps-5-9", "loss-timesteps-10-14", "loss-timesteps-15-19"]
    for name in ("loss", "gradient-norm", "images-per-second", *quarters):
        assert {step for other, step in names if other == name} == {10, 20}
    assert set(pictures(opened)) == {"masks/0.png", *(f"samples/{step}.png" for step in (5, 10, 15, 20))}


# mistakes


@pytest.mark.parametrize(
    ("values", "size", "said"),
    [
        (PIXELS, 17, r"network tiny \(2 levels, patches of 1\) needs pairs of a side that is a multiple of 2, got 17"),
        (SMALL, 20, "patches of 1\\) on latents 4 times smaller needs pairs of a side that is a multiple of 8, got 20"),
    ],
)
def test_wrong_sizes_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], size: int, said: str
) -> None:
    monkeypatch.setattr(training.FirstStageTraining, "__init__", None)
    with pytest.raises(HarnessError, match=said):
        run_fit(MaskLDM.create(**values), drawn_pairs(2, size), WorkFolder(tmp_path, CPU, 0))


def test_checkpoints_beyond_the_end_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.FirstStageTraining, "__init__", None)
    with pytest.raises(HarnessError, match="Checkpoint 9 is outside steps 1 to 2"):
        fit(tmp_path, {**SMALL, "checkpoints": (1, 9)})


def test_guidance_needs_masks_that_were_left_out() -> None:
    said = "guidance 1.5 compares with a picture without a mask, which mask_dropout 0 never teaches; set guidance to 1"
    with pytest.raises(ValidationError, match=said):
        MaskLDM.create(mask_dropout=0)
    with pytest.raises(ValidationError, match="guidance 2 compares"):
        MaskLDM.create(setting="as-published", guidance=2)
    assert MaskLDM.create(mask_dropout=0, guidance=1).for_grids.guidance == 1
    published = MaskLDM.create(setting="as-published")
    assert (published.parameters.guidance, published.parameters.mask_dropout) == (1, 0)
    assert (published.for_grids.guidance, MaskLDM.create(guidance=4).for_grids.guidance) == (1, 1.5)


def test_too_little_memory_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Any, step: int) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DiffusionTraining, "step", exhausted)
    with pytest.raises(OutOfMemory, match="a batch of 4 pictures of 16 px with mask-ldm, computed in 1 parts"):
        fit(tmp_path, PIXELS)


# parameters: each is read, and none that sampling alone reads changes a fit

#: What each parameter of the denoiser's fit is changed to, from which other values of a model of pixels.
OF_THE_FIT: dict[str, tuple[Any, dict[str, Any]]] = {
    "steps": (3, {}),
    "batch_size": (3, {}),
    "patch": (2, {}),
    "attention": ((16,), {}),
    "dropout": (0.5, {}),
    "timesteps": (30, {}),
    "noise_schedule": ("linear", {}),
    "beta_start": (1e-3, {"noise_schedule": "linear"}),
    "beta_end": (0.1, {"noise_schedule": "linear"}),
    "noise_shift": (3.0, {}),
    "prediction": ("noise", {}),
    "loss": ("l1", {}),
    "weighting": ("min-snr", {"prediction": "noise"}),
    "timestep_sampling": ("importance", {}),
    "learning_rate": (1e-3, {}),
    "warmup_steps": (3, {}),
    "decay_steps": (3, {}),
    "weight_decay": (0.5, {}),
    "betas": ((0.5, 0.9), {}),
    "gradient_clip": (0.01, {}),
    "ema": (0.05, {}),
    "ema_warmup": (False, {}),
    "flip": ("none", {}),
    "precision": ("bfloat16", {}),
    "network": ("small", {}),
    "mask_dropout": (0.6, {}),
    "first_stage": (FIRST_STAGE, {}),
    "scale_latents": (False, {"first_stage": FIRST_STAGE}),
}
#: Likewise of sampling; each of them must change images.
OF_SAMPLING: dict[str, tuple[Any, dict[str, Any]]] = {
    "sampler": ("ancestral", {}),
    "sampling_steps": (5, {}),
    "eta": (0.0, {"sampler": "ddim"}),
    "spacing": ("leading", {}),
    "guidance": (3.0, {}),
}
#: Of the first stage, from which other values of it.
OF_THE_FIRST_STAGE: dict[str, tuple[Any, dict[str, Any]]] = {
    "network": ("small", {}),
    "steps": (3, {}),
    "batch_size": (3, {}),
    "learning_rate": (1e-3, {}),
    "betas": ((0.9, 0.99), {}),
    "decay": (1.0, {}),
    "perceptual_weight": (0.5, {}),
    "perceptual_blocks": (1, {"perceptual_weight": 0.5}),
    "adversarial_weight": (0.1, {}),
    "adversarial_start": (3, {}),
    "discriminator_features": (8, {}),
    "judging_interval": (2, {}),
    "codebook_weight": (0.1, {}),
    "codebook_start": ("uniform", {}),
    "revive_interval": (1, {}),
    "flip": ("none", {}),
    "precision": ("bfloat16", {}),
}
#: What has tests of its own, and why it is not among those above.
ELSEWHERE = {
    "setting": "sets the defaults of others",
    "checkpoints": "says which states of one training are kept",
    "grids": "says what is shown of a training",
    "accumulate": "changes rounding alone",
    "devices": "changes rounding alone",
    "compile": "changes rounding alone, and needs a C++ compiler",
}


def test_every_parameter_is_tried() -> None:
    tried = [*OF_THE_FIT, *OF_SAMPLING, *ELSEWHERE]
    assert sorted(tried) == sorted(MaskLDM.Parameters.model_fields)
    assert set(OF_SAMPLING) == MaskLDM.sampling
    # A file is loaded instead of training.
    assert sorted([*OF_THE_FIRST_STAGE, "setting", "file"]) == sorted(FirstStageParameters.model_fields)


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    """Weights of fits that several parameters are compared with."""
    return {}


@pytest.mark.parametrize("name", OF_THE_FIT)
def test_a_parameter_of_the_fit_changes_it(tmp_path: Path, no_grids: None, kept: dict[str, bytes], name: str) -> None:
    value, base = OF_THE_FIT[name]
    if str(base) not in kept:
        kept[str(base)] = weights(fit(tmp_path / "base", {**PIXELS, **base})[0][-1])
    assert weights(fit(tmp_path / "changed", {**PIXELS, **base, name: value})[0][-1]) != kept[str(base)]


@pytest.mark.parametrize("name", OF_THE_FIRST_STAGE)
def test_a_parameter_of_the_first_stage_changes_it(
    tmp_path: Path, no_grids: None, random_perceptual_network: None, kept: dict[str, bytes], name: str
) -> None:
    def trained(folder: str, **more: Any) -> bytes:
        values = {**SMALL, "steps": 1, "first_stage": {**FIRST_STAGE, **more}}
        return weights(fit(tmp_path / folder, values)[0][-1], "first-stage")

    value, base = OF_THE_FIRST_STAGE[name]
    known = f"first stage {base}"
    if known not in kept:
        kept[known] = trained("base", **base)
    assert trained("changed", **{**base, name: value}) != kept[known]


@pytest.fixture(scope="module")
def sampled() -> dict[str, tuple[list[Checkpoint], WorkFolder]]:
    """Fits that several parameters of sampling are compared with."""
    return {}


@pytest.mark.parametrize("name", OF_SAMPLING)
def test_a_parameter_of_sampling_changes_samples_and_no_fit(
    tmp_path_factory: pytest.TempPathFactory, sampled: dict[str, tuple[list[Checkpoint], WorkFolder]], name: str
) -> None:
    value, base = OF_SAMPLING[name]
    # Of weights that have moved far from their start, which predicts nothing.
    given = {**PIXELS, **base, "learning_rate": 0.02, "ema": 0.0}
    changed = {**given, name: value}
    if str(base) not in sampled:
        sampled[str(base)] = fit(tmp_path_factory.mktemp("one"), given)
    (one, one_context), (other, other_context) = sampled[str(base)], fit(tmp_path_factory.mktemp("other"), changed)
    assert weights(one[-1]) == weights(other[-1])
    assert logged(one_context) == logged(other_context)
    assert pictures(one_context) == pictures(other_context) != {}
    assert not np.array_equal(sample(one[-1], given), sample(one[-1], changed))


def test_the_published_setting_gives_way_to_what_a_study_says() -> None:
    published = MaskLDM.create(setting="as-published").parameters
    for name, value in MaskLDM.Parameters.as_published.items():
        if name != "first_stage":
            assert getattr(published, name) == value
    assert published.first_stage == FirstStageParameters(setting="as-published")
    assert MaskLDM.create(setting="as-published", steps=7).parameters.steps == 7
    assert MaskLDM.create(setting="as-published", first_stage=None).parameters.first_stage is None

"""The diffusion model of masks as a plugin: its fit, its checkpoints, and that no parameter is ignored."""

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

from generators.diffusion.examples import PixelExamples
from generators.diffusion.process import Process
from generators.diffusion.training import DiffusionTraining
from generators.mask_ddpm import MaskDDPM
from harness.conformance import drawn_pairs
from harness.errors import HarnessError, OutOfMemory
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, SampleContext

CPU = torch.device("cpu")
PAIRS = drawn_pairs(6, 16)
#: A fit of a sixth of a second.
SMALL: dict[str, Any] = {
    "network": "tiny",
    "steps": 2,
    "batch_size": 4,
    "checkpoints": 1,
    "grids": 0,
    "timesteps": 20,
    "sampling_steps": 4,
    "attention": (8,),
    "precision": "float32",
}


def fit(folder: Path, seed: int = 0, **more: Any) -> tuple[list[Checkpoint], WorkFolder]:
    opened = WorkFolder(folder, CPU, seed)
    return run_fit(MaskDDPM.create(**{**SMALL, **more}), PAIRS, opened), opened


def sample(checkpoint: Checkpoint, count: int = 4, **more: Any) -> np.ndarray:
    made = MaskDDPM.create(**{**SMALL, **more}).sample(checkpoint, np.arange(count), SampleContext(CPU, PAIRS))
    assert made.images is None
    return made.masks


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.folder / "denoiser.safetensors").read_bytes()


def logged(opened: WorkFolder) -> dict[tuple[str, int], float]:
    """Return what is logged, but for the one thing that depends on the clock."""
    return {(r["name"], r["step"]): r["value"] for r in opened.metrics() if r["name"] != "images-per-second"}


def pictures(opened: WorkFolder) -> dict[str, bytes]:
    root = opened.folder / "images"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.fixture(autouse=True, scope="module")
def short_grids() -> Iterator[None]:
    """Sample grids in two steps, which a picture of one needs not be good for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generators.diffusion.generator._GRID_STEPS", 2)
        yield


@pytest.fixture
def no_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what costs most of a short fit: sampling beside each checkpoint."""

    def black(self: Any, network: Any, settings: Any, seeds: Any, device: Any) -> np.ndarray:
        return np.full((len(seeds), settings.channels, network.side, network.side), -1, np.float32)

    monkeypatch.setattr(MaskDDPM, "_pictures", black)


# resuming


class Kill(BaseException):
    pass


class Killing(WorkFolder):
    """Saves when it is asked for the n-th time, and kills the fit when it is asked next."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder, CPU, 1)
        self.left = at

    def should_save(self) -> bool:
        self.left -= 1
        if self.left < 0:
            raise Kill
        return self.left == 0


#: Whatever has a state of its own: averages, rates, remembered losses of timesteps, and dropout.
STATEFUL: dict[str, Any] = {
    "steps": 14,
    "checkpoints": (7, 14),
    "grids": 3,
    "timesteps": 2,
    "sampling_steps": 2,
    "timestep_sampling": "importance",
    "warmup_steps": 4,
    "decay_steps": 4,
    "dropout": 0.2,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Checkpoint], WorkFolder]:
    return fit(tmp_path_factory.mktemp("whole"), seed=1, **STATEFUL)


@pytest.mark.parametrize("at", [1, 7, 12])
def test_a_killed_fit_resumes_bit_equal(
    tmp_path: Path, uninterrupted: tuple[list[Checkpoint], WorkFolder], at: int
) -> None:
    with pytest.raises(Kill):
        run_fit(MaskDDPM.create(**{**SMALL, **STATEFUL}), PAIRS, Killing(tmp_path, at))
    torch.rand(3)  # the global random state of a new process is another
    checkpoints, opened = fit(tmp_path, seed=1, **STATEFUL)
    whole, whole_context = uninterrupted
    assert [c.step for c in checkpoints] == [c.step for c in whole] == [7, 14]
    for one, other in zip(checkpoints, whole, strict=True):
        for name in ("denoiser.safetensors", "config.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert logged(opened) == logged(whole_context)
    assert pictures(opened) == pictures(whole_context)


def test_the_seed_matters_and_the_global_state_does_not(tmp_path: Path, no_grids: None) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made = [weights(fit(tmp_path / str(i), seed, dropout=0.3)[0][-1]) for i, seed in enumerate((0, 1))]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    made.append(weights(fit(tmp_path / "again", 0, dropout=0.3)[0][-1]))
    assert made[0] == made[2] != made[1]


# checkpoints and samples


def test_a_checkpoint_is_all_that_sampling_needs(tmp_path: Path) -> None:
    checkpoints, _ = fit(tmp_path / "fit")
    (checkpoint,) = checkpoints
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == ["config.json", "denoiser.safetensors"]
    expected = sample(checkpoint, 19)
    assert expected.shape == (19, 16, 16)
    assert expected.dtype == np.uint8
    assert set(np.unique(expected)) == {0, 1}
    moved = Checkpoint(checkpoint.step, Path(shutil.move(checkpoint.folder, tmp_path / "moved")))
    shutil.rmtree(tmp_path / "fit")
    assert np.array_equal(sample(moved, 19), expected)
    config = json.loads((moved.folder / "config.json").read_text())
    assert (config["plugin"], config["step"], config["side"]) == ("mask-ddpm", 2, 16)


def test_no_seeds_make_no_masks(tmp_path: Path, no_grids: None) -> None:
    assert sample(fit(tmp_path)[0][-1], 0).shape == (0, 16, 16)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_raw_weights_are_sampled_without_an_average(tmp_path: Path, no_grids: None, ema: float) -> None:
    """The same training, by hand: the checkpoint holds its raw or its averaged weights."""
    values = {**SMALL, "ema": ema, "flip": "none"}
    checkpoint = fit(tmp_path, 5, **values)[0][-1]
    plugin = MaskDDPM.create(**values)
    config = json.loads((checkpoint.folder / "config.json").read_text())
    training = DiffusionTraining(
        plugin.parameters,
        PixelExamples(torch.from_numpy(PAIRS.masks.copy())[:, None] * 255, None, "none"),
        lambda: plugin.build(config),
        Process(plugin.parameters, CPU, learned_variance=True),
        5,
        CPU,
    )
    for step in range(2):
        training.step(step)
    raw, averaged = training.denoiser.state_dict(), training.averaged.state_dict()
    kept = load_file(checkpoint.folder / "denoiser.safetensors")
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    expected = averaged if ema else raw
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


# what is told


def test_curves_and_grids_are_logged(tmp_path: Path) -> None:
    _, opened = fit(tmp_path, steps=20, grids=4, checkpoints=2)
    names = {(row["name"], row["step"]) for row in opened.metrics()}
    quarters = ["loss-timesteps-0-4", "loss-timesteps-5-9", "loss-timesteps-10-14", "loss-timesteps-15-19"]
    for name in ("loss", "gradient-norm", "images-per-second", *quarters):
        assert {step for other, step in names if other == name} == {10, 20}
    assert all(row["value"] > 0 for row in opened.metrics() if row["name"] == "images-per-second")
    for name in ("mask-area", "empty-masks"):
        assert {step for other, step in names if other == name} == {5, 10, 15, 20}
    assert set(pictures(opened)) == {f"samples/{step}.png" for step in (5, 10, 15, 20)}
    assert opened.notes() == []


# mistakes


def test_wrong_sizes_are_told_in_a_sentence(tmp_path: Path) -> None:
    pairs = drawn_pairs(2, 18)
    said = (
        r"mask-ddpm with network tiny \(2 levels, patches of 2\) needs pairs of a side that is a multiple of 4, got 18"
    )
    with pytest.raises(HarnessError, match=said):
        run_fit(MaskDDPM.create(**SMALL, patch=2), pairs, WorkFolder(tmp_path, CPU, 0))
    wide = type(pairs)(pairs.images[:, :16], pairs.masks[:, :16], pairs.ids, pairs.groups, pairs.lineage)
    with pytest.raises(HarnessError, match="mask-ddpm makes squares, and the training pairs are 18 x 16 px"):
        run_fit(MaskDDPM.create(**SMALL), wide, WorkFolder(tmp_path, CPU, 0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"thresholding": "image-mean"}, "set channels to 3"),
        ({"sampling_steps": 21}, "sampling_steps 21 is more than the 20 timesteps"),
        ({"accumulate": 5}, "accumulate 5 is more than batch_size 4"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"network": "giant"}, "network"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MaskDDPM.create(**{**SMALL, **values})


def test_a_training_that_is_lost_ends_with_a_sentence(tmp_path: Path, no_grids: None) -> None:
    with pytest.raises(HarnessError, match=r"mask-ddpm diverged: its loss is .* at step 20; lower learning_rate"):
        fit(tmp_path, steps=20, learning_rate=1e30, gradient_clip=None)


def test_too_little_memory_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Any, step: int) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DiffusionTraining, "step", exhausted)
    said = "a batch of 4 pictures of 16 px with mask-ddpm, computed in 2 parts; raise accumulate"
    with pytest.raises(OutOfMemory, match=said):
        fit(tmp_path, accumulate=2)


def test_a_broken_checkpoint_is_named(tmp_path: Path, no_grids: None) -> None:
    checkpoint = fit(tmp_path)[0][-1]
    path = checkpoint.folder / "denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(HarnessError, match="is not a whole checkpoint of mask-ddpm"):
        sample(checkpoint)


# parameters: each is read, and none that sampling alone reads changes a fit

#: What each parameter of the fit is changed to, from which other values.
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
    "noise_shift": (2.0, {}),
    "prediction": ("noise", {}),
    "loss": ("l1", {}),
    "weighting": ("min-snr", {}),
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
    "channels": (3, {}),
    "variance": ("fixed", {}),
}
#: Likewise of sampling; each of them must change masks.
OF_SAMPLING: dict[str, tuple[Any, dict[str, Any]]] = {
    "sampler": ("ancestral", {}),
    "sampling_steps": (5, {}),
    "eta": (0.0, {"sampler": "ddim"}),
    "spacing": ("leading", {}),
    "thresholding": ("image-mean", {"channels": 3}),
    "channel": ("green", {"channels": 3, "thresholding": "image-mean"}),
    "smallest": (0.4, {}),
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
    assert sorted(tried) == sorted(MaskDDPM.Parameters.model_fields)
    assert set(OF_SAMPLING) == MaskDDPM.sampling


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    """Weights of fits that several parameters are compared with."""
    return {}


@pytest.mark.parametrize("name", OF_THE_FIT)
def test_a_parameter_of_the_fit_changes_it(tmp_path: Path, no_grids: None, kept: dict[str, bytes], name: str) -> None:
    value, base = OF_THE_FIT[name]
    if str(base) not in kept:
        kept[str(base)] = weights(fit(tmp_path / "base", **base)[0][-1])
    assert weights(fit(tmp_path / "changed", **{**base, name: value})[0][-1]) != kept[str(base)]


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
    given = {**base, "learning_rate": 0.02, "ema": 0.0}
    changed = {**given, name: value}
    if str(base) not in sampled:
        sampled[str(base)] = fit(tmp_path_factory.mktemp("one"), **given)
    (one, one_context), (other, other_context) = sampled[str(base)], fit(tmp_path_factory.mktemp("other"), **changed)
    assert weights(one[-1]) == weights(other[-1])
    assert logged(one_context) == logged(other_context)
    assert pictures(one_context) == pictures(other_context) != {}
    assert not np.array_equal(sample(one[-1], **given), sample(one[-1], **changed))


def test_the_published_setting_gives_way_to_what_a_study_says() -> None:
    published = MaskDDPM.create(setting="as-published").parameters
    for name, value in MaskDDPM.Parameters.as_published.items():
        assert getattr(published, name) == value
    assert MaskDDPM.create(setting="as-published", steps=7).parameters.steps == 7
    assert MaskDDPM.create().parameters.steps != published.steps


def test_checkpoints_beyond_the_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="Checkpoint 9 is outside steps 1 to 2"):
        fit(tmp_path, checkpoints=(1, 9))

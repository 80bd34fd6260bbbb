"""The segmenter ``smp``: names against the library's, models against the papers', losses against formulas."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import segmentation_models_pytorch as library
import timm
import torch
from pydantic import ValidationError

from harness.errors import PluginError, WeightsError
from harness.learning.optimisation import Optimisation
from harness.plugins.registry import load_plugin
from harness.weights.encoders import EncoderWeights
from segmenters.smp import SMP
from segmenters.smp.module import SMPModule, build_network, learning_rate_factor, make_loss, normalisation
from segmenters.smp.parameters import ARCHITECTURES, ENCODERS, LOSSES, SMPParameters, timm_models

TINY = {"arch": "Unet", "encoder": "tu-test_efficientnet", "encoder_weights": "random"}


def refusal(**values):
    with pytest.raises(ValidationError) as caught:
        SMP.create(**values)
    return str(caught.value)


def on_meta(**values):
    with torch.device("meta"):
        return build_network(SMPParameters(encoder_weights="random", **values))


def test_names_are_the_librarys():
    assert set(ENCODERS) == set(library.encoders.encoders)
    assert len(ENCODERS) == len(set(ENCODERS)) == 76
    offered = {c.__name__ for c in library.MODEL_ARCHITECTURES_MAPPING.values()}
    assert set(ARCHITECTURES) == offered
    assert timm_models() == set(timm.list_models())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_decoder_options_are_the_constructors(arch):
    ours_to_decide = {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "activation"}
    ours_to_decide |= {"aux_params", "upsampling", "kwargs"}
    constructor = inspect.signature(getattr(library, arch).__init__)
    assert set(ARCHITECTURES[arch]) == set(constructor.parameters) - ours_to_decide


@pytest.mark.parametrize(
    ("arch", "count"), [("UnetPlusPlus", 26_078_609), ("FPN", 23_155_393), ("DeepLabV3Plus", 22_437_457)]
)
def test_parameter_counts_are_the_papers(arch, count):
    module = SMP.create(arch=arch, encoder="resnet34", encoder_weights="random").module(10)
    assert sum(p.numel() for p in module.parameters()) == count
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "DPT"])
def test_every_architecture_builds_and_keeps_the_images_size(arch):
    segmenter = SMP.create(arch=arch, encoder="resnet18", encoder_weights="random")
    module = segmenter.module(5).eval()
    assert segmenter.label == arch.lower()
    for height, width in ((64, 64), (70, 131)):
        assert module(torch.rand(2, 3, height, width)).shape == (2, 1, height, width)


def test_pan_works_with_a_mix_transformer():
    module = SMP.create(arch="PAN", encoder="mit_b0", encoder_weights="random").module(5).eval()
    assert module(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_dpt_builds_with_a_vision_transformer():
    module = SMP.create(arch="DPT", encoder="tu-vit_tiny_patch16_224", encoder_weights="random").module(5).eval()
    assert module(torch.rand(1, 3, 96, 100)).shape == (1, 1, 96, 100)


@pytest.mark.parametrize("encoder", ["resnet18", "vgg11", "densenet121", "mit_b0", "mobileone_s0", "xception", "dpn68"])
@pytest.mark.parametrize("arch", ["UnetPlusPlus", "Linknet", "FPN", "DeepLabV3", "DeepLabV3Plus", "PAN", "Segformer"])
def test_what_is_refused_is_what_the_library_cannot_build(arch, encoder):
    options = {"encoder_name": encoder, "encoder_weights": None}
    with torch.device("cpu" if encoder == "mit_b0" else "meta"):
        try:
            getattr(library, arch)(**options)
        except (ValueError, RuntimeError):
            assert "cannot" in refusal(arch=arch, encoder=encoder)
        else:
            SMP.create(arch=arch, encoder=encoder)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"arch": "UnetPlusPlsu"}, "there is no architecture 'UnetPlusPlsu'; did you mean 'UnetPlusPlus'?"),
        ({"arch": "unet++"}, "did you mean 'UnetPlusPlus'?"),
        ({"arch": "deeplabv3+"}, "did you mean 'DeepLabV3Plus'?"),
        ({"encoder": "resnet43"}, "there is no encoder 'resnet43'; did you mean 'resnet34'?"),
        ({"encoder": "tu-tf_efficientnet_lite9"}, "timm has no model 'tf_efficientnet_lite9'; did you mean"),
        ({"encoder": "convnext_tiny"}, "did you mean 'tu-convnext_tiny'?"),
        ({"arch": "DPT"}, "DPT needs a plain vision transformer"),
        ({"arch": "FPN", "encoder": "tu-vit_tiny_patch16_224"}, "FPN needs an encoder with several resolutions"),
        (
            {"decoder": {"decoder_chanels": [1]}},
            "no decoder option 'decoder_chanels'; did you mean 'decoder_channels'?",
        ),
        ({"arch": "FPN", "decoder": {"decoder_channels": [8]}}, "FPN has no decoder option 'decoder_channels'"),
        ({"decoder": {"decoder_channels": [8, 8]}}, "one number in decoder_channels for each of its 5 levels"),
        ({"decoder": {"encoder_depth": 4}}, "one number in decoder_channels for each of its 4 levels"),
        ({"arch": "FPN", "decoder": {"decoder_dropout": 1.5}}, "decoder_dropout of FPN cannot be 1.5"),
        ({"milestones": [0.8, 0.2]}, "milestones must be rising fractions"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"batch_size": 1}, "batch_size"),
        ({"loss": "dise"}, "'dice'"),
        ({"lr": 1e-3}, "lr"),
    ],
)
def test_mistakes_are_named(values, sentence):
    assert sentence in refusal(**values)


def test_checking_a_study_imports_nothing_heavy():
    code = (
        "import sys\nfrom segmenters.smp import SMP\n"
        "SMP.create(encoder='tu-convnext_tiny', decoder={'decoder_use_norm': 'batchnorm'})\n"
        "print([m for m in ('torch', 'timm', 'numpy', 'segmentation_models_pytorch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_registry_finds_one_plugin():
    assert load_plugin("segmenters", "smp") is SMP


def test_what_the_library_refuses_for_its_own_reasons_is_one_sentence():
    with pytest.raises(PluginError, match=r"cannot build Unet with the encoder 'tu-vitamin_small_224'"):
        SMP.create(arch="Unet", encoder="tu-vitamin_small_224", encoder_weights="random").module(1)


def test_missing_weights_offer_random_ones(tmp_path, monkeypatch):
    for name in ("HARNESS_HOME", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with pytest.raises(WeightsError, match="encoder_weights: random"):
        SMP.create(encoder="resnet101").module(1)
    with pytest.raises(WeightsError, match="encoder_weights: random"):
        SMP.create(encoder="resnet18", encoder_weights=str(tmp_path / "absent.safetensors")).module(1)


def test_encoder_weights_and_their_normalisation_are_used():
    parameters = SMPParameters(**TINY)
    source = SMPModule(parameters, 1).network.encoder
    given = {name: torch.rand_like(w) if w.is_floating_point() else w for name, w in source.state_dict().items()}
    half, quarter = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    module = SMPModule(
        parameters, 1, EncoderWeights({**given, "classifier.weight": torch.zeros(1)}, half, quarter, "here")
    )
    for name, weight in module.network.encoder.state_dict().items():
        torch.testing.assert_close(weight, given[name])
    assert module.mean.flatten().tolist() == list(half)
    assert module.std.flatten().tolist() == list(quarter)
    given.popitem()
    with pytest.raises(WeightsError, match=r"1 of its .* tensors are missing .*encoder_weights: random"):
        SMPModule(parameters, 1, EncoderWeights(given, half, quarter, "here"))


def test_notes_tell_random_weights_and_the_double_normalisation():
    assert SMP.create(arch="FPN", encoder="resnet34").notes() == []
    notes = SMP.create(arch="FPN", encoder="resnet34", encoder_weights="random", normalise="twice").notes()
    assert notes[0] == "fpn: encoder resnet34 from random weights."
    assert "normalised twice" in notes[1]
    assert "file mine.pt" in SMP.create(encoder_weights="/some/where/mine.pt").notes()[0]


def test_normalisation_by_family_and_twice():
    assert normalisation("tu-tf_efficientnet_lite0")[0] == (0.5, 0.5, 0.5)
    assert normalisation("resnet34")[1] == (0.229, 0.224, 0.225)
    seen = []
    for how in ("once", "twice"):
        module = SMP.create(**TINY | {"encoder": "resnet18"}, normalise=how).module(1).eval()
        module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        module(torch.full((1, 3, 32, 32), 1.0))
    once = (1 - 0.485) / 0.229
    assert seen[0][0, 0, 0, 0].item() == pytest.approx(once, abs=1e-5)
    assert seen[1][0, 0, 0, 0].item() == pytest.approx((once - 0.485) / 0.229, abs=1e-5)


@pytest.mark.parametrize("encoder", ["mobileone_s0", "resnet18"])
def test_channels_last_where_it_is_safe(encoder):
    module = SMP.create(arch="FPN", encoder=encoder, encoder_weights="random").module(1)
    kernel = next(p for p in module.network.encoder.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last) == (encoder != "mobileone_s0")


def masks_and_logits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 6, 6, generator=generator)
    return logits, (torch.rand(3, 1, 6, 6, generator=generator) < 0.4).float()


def test_losses_equal_their_formulas():
    logits, masks = masks_and_logits()
    p, t = logits.sigmoid().double(), masks.double()
    both = (p * t).sum()
    fp, fn, tn = (p * (1 - t)).sum(), ((1 - p) * t).sum(), ((1 - p) * (1 - t)).sum()
    dice = 1 - 2 * both / (p.sum() + t.sum())
    bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    right = p * t + (1 - p) * (1 - t)
    expected = {
        "dice": dice,
        "jaccard": 1 - both / (p.sum() + t.sum() - both),
        "tversky": 1 - both / (both + 0.3 * fp + 0.7 * fn),
        "bce": bce,
        "dice-bce": (dice + bce) / 2,
        "mcc": 1 - (both * tn - fp * fn) / ((both + fp) * (both + fn) * (tn + fp) * (tn + fn)).sqrt(),
        "focal": -((1 - right) ** 2 * right.log()).mean(),
    }
    for name, value in expected.items():
        assert make_loss(name)(logits, masks).item() == pytest.approx(value.item(), abs=1e-5), name


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_towards_the_truth(name):
    _, masks = masks_and_logits()
    logits = torch.zeros_like(masks, requires_grad=True)
    loss = make_loss(name)(logits, masks)
    loss.backward()
    towards = (logits.grad * (2 * masks - 1)).sum()
    assert towards < 0
    assert make_loss(name)(20 * (2 * masks - 1), masks).item() == pytest.approx(0, abs=1e-3)


def test_dice_is_over_the_batch_and_zero_without_polyps():
    logits = torch.tensor([4.0, -4.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    masks = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    p = torch.tensor([4.0, -4.0]).sigmoid()
    assert make_loss("dice")(logits, masks).item() == pytest.approx(
        1 - 2 * p[0].item() / (p.sum().item() + 1), abs=1e-5
    )
    assert make_loss("dice")(logits, torch.zeros(2, 1, 2, 2)).item() == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.5, 100: 0.0}),
        ({"schedule": "step", "milestones": [0.5, 0.75], "gamma": 0.1}, {49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01}),
        ({"schedule": "warmup-cosine"}, {0: 0.2, 4: 1.0, 5: 1.0, 100: 0.0}),
    ],
)
def test_schedules(values, expected):
    factor = learning_rate_factor(SMPParameters(**values), 100)
    for step, value in expected.items():
        assert factor(step) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("augmentation", ["paper-a", "light", "none"])
def test_one_training_step_moves_the_weights(optimizer, augmentation):
    module = SMP.create(**TINY, optimizer=optimizer, augmentation=augmentation, schedule="constant").module(2)
    before = [p.detach().clone() for p in module.parameters()]
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((4, 3, 32, 32), dtype=np.float32))
    masks = (images.mean(dim=1, keepdim=True) > 0.5).float()
    optimisation = Optimisation(module.train(), batch_size=4, images=4)
    optimisation.update(0, lambda: module.training_step((images, masks), 0))
    assert optimisation.optimiser.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_trained_weights_load_without_pretrained_ones(tmp_path):
    from safetensors.torch import save_file

    from harness.learning.predict import load_module

    trained = SMP.create(**TINY).module(1).eval()
    trained.mean += 0.1
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, tmp_path / "w.safetensors")
    segmenter = SMP.create(**TINY | {"encoder_weights": str(tmp_path / "gone.pt")})
    loaded = load_module(segmenter, tmp_path / "w.safetensors", torch.device("cpu"))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), trained(images))

"""What the segmenter ``smp`` can be told, written out so that a study is checked without importing torch.

A test compares the names with the library's own.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from harness.learning import Parameters, nearest

Loss = Literal["dice", "jaccard", "focal", "lovasz", "tversky", "bce", "mcc", "dice-bce"]
LOSSES: tuple[Loss, ...] = get_args(Loss)

#: Encoders of segmentation-models-pytorch 0.6.0; besides them, ``tu-NAME`` for any model of timm.
# fmt: off
ENCODERS: tuple[str, ...] = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d",
    "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d", "dpn68", "dpn68b", "dpn92",
    "dpn98", "dpn107", "dpn131", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "senet154", "se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d",
    "densenet121", "densenet169", "densenet201", "densenet161", "inceptionresnetv2", "inceptionv4", "xception",
    "mobilenet_v2", "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3", "efficientnet-b4",
    "efficientnet-b5", "efficientnet-b6", "efficientnet-b7", "timm-efficientnet-b0", "timm-efficientnet-b1",
    "timm-efficientnet-b2", "timm-efficientnet-b3", "timm-efficientnet-b4", "timm-efficientnet-b5",
    "timm-efficientnet-b6", "timm-efficientnet-b7", "timm-efficientnet-b8", "timm-efficientnet-l2",
    "timm-tf_efficientnet_lite0", "timm-tf_efficientnet_lite1", "timm-tf_efficientnet_lite2",
    "timm-tf_efficientnet_lite3", "timm-tf_efficientnet_lite4", "timm-skresnet18", "timm-skresnet34",
    "timm-skresnext50_32x4d", "mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "mobileone_s0",
    "mobileone_s1", "mobileone_s2", "mobileone_s3", "mobileone_s4",
)
# fmt: on

_Width = Annotated[int, Field(ge=1, strict=True)]
_Widths = Annotated[list[_Width], Field(min_length=1)]
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Norm = Literal["batchnorm", "groupnorm", "layernorm", "instancenorm", "inplace"] | bool | dict[str, Any]
_Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "nearest-exact"]
_Depth = Annotated[int, Field(ge=3, le=5, strict=True)]
_Rates = Annotated[list[_Width], Field(min_length=3, max_length=3)]

_UNET_OPTIONS: dict[str, Any] = {
    "encoder_depth": _Depth,
    "decoder_use_norm": _Norm,
    "decoder_channels": _Widths,
    "decoder_attention_type": Literal["scse"] | None,
    "decoder_interpolation": _Interpolation,
}
_DEEPLAB_OPTIONS: dict[str, Any] = {
    "encoder_depth": _Depth,
    "encoder_output_stride": Literal[8, 16],
    "decoder_channels": _Width,
    "decoder_atrous_rates": _Rates,
    "decoder_aspp_separable": bool,
    "decoder_aspp_dropout": _Fraction,
}

#: Architectures, each with the options of its constructor that a study may set, and their types. The number of
#: classes, the weights
#: and the upsampling to the input's size belong to the harness.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Unet": _UNET_OPTIONS,
    "UnetPlusPlus": _UNET_OPTIONS,
    "MAnet": {
        "encoder_depth": _Depth,
        "decoder_use_norm": _Norm,
        "decoder_channels": _Widths,
        "decoder_pab_channels": _Width,
        "decoder_interpolation": _Interpolation,
    },
    "Linknet": {"encoder_depth": _Depth, "decoder_use_norm": _Norm},
    "FPN": {
        "encoder_depth": _Depth,
        "decoder_pyramid_channels": _Width,
        "decoder_segmentation_channels": _Width,
        "decoder_merge_policy": Literal["add", "cat"],
        "decoder_dropout": _Fraction,
        "decoder_interpolation": _Interpolation,
    },
    "PSPNet": {
        "encoder_depth": Literal[3, 4, 5],
        "psp_out_channels": _Width,
        "decoder_use_norm": _Norm,
        "psp_dropout": _Fraction,
    },
    "DeepLabV3": _DEEPLAB_OPTIONS,
    "DeepLabV3Plus": _DEEPLAB_OPTIONS,
    "PAN": {
        "encoder_depth": _Depth,
        "encoder_output_stride": Literal[16, 32],
        "decoder_channels": _Width,
        "decoder_interpolation": _Interpolation,
    },
    "UPerNet": {"encoder_depth": _Depth, "decoder_channels": _Width, "decoder_use_norm": _Norm},
    "Segformer": {"encoder_depth": _Depth, "decoder_segmentation_channels": _Width},
    "DPT": {
        "encoder_depth": Annotated[int, Field(ge=1, strict=True)],
        "encoder_output_indices": list[int] | None,
        "decoder_readout": Literal["ignore", "add", "cat"],
        "decoder_intermediate_channels": _Widths,
        "decoder_fusion_channels": _Width,
    },
}

# Architectures with one decoder block a level, and so with one width a level.
_ONE_WIDTH_A_LEVEL = ("Unet", "UnetPlusPlus", "MAnet")
# These need an encoder whose last levels can be dilated instead of downsampled.
_DILATED = ("DeepLabV3", "DeepLabV3Plus", "PAN")
_CANNOT_DILATE = ("vgg", "tu-vgg", "densenet", "inception", "xception")
_PLAIN_TRANSFORMERS = ("tu-vit_", "tu-deit", "tu-beit", "tu-eva", "tu-cait", "tu-samvit", "tu-flexivit")


@cache
def timm_models() -> frozenset[str]:
    """Return the names of timm's models, read from its source: importing timm takes seconds, this does not."""
    specification = find_spec("timm")
    if specification is None or specification.origin is None:
        return frozenset()
    registered = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
    files = (Path(specification.origin).parent / "models").rglob("*.py")
    return frozenset(name for file in files for name in registered.findall(file.read_text(encoding="utf-8")))


class SMPParameters(Parameters):
    """Parameters of the segmenter ``smp``. The papers' values are in ``docs/reference/segmenters.md``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    arch: str = Field("UnetPlusPlus", description=f"Architecture: {', '.join(ARCHITECTURES)}.")
    encoder: str = Field(
        "tu-tf_efficientnet_lite0",
        description="Encoder of segmentation-models-pytorch, or tu-NAME for a model of timm.",
    )
    encoder_weights: str = Field(
        "imagenet", min_length=1, description="imagenet, random, or the path of a file with the encoder's weights."
    )
    decoder: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the architecture's constructor, such as decoder_channels: [64, 32, 16, 16, 8].",
    )
    loss: Loss = Field("dice", description="Loss; dice, over the whole batch, is the papers'. dice-bce is their mean.")
    augmentation: Literal["paper-a", "light", "none"] = Field(
        "light", description="Augmentation policy: paper-a (as published), light, or none."
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="Optimiser; sgd has Nesterov momentum 0.9.")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="Highest learning rate; the papers use 1e-4 with adam.")
    weight_decay: float = Field(1e-4, ge=0, lt=1, description="Weight decay: decoupled in adamw, else L2.")
    schedule: Literal["constant", "cosine", "step", "warmup-cosine"] = Field(
        "cosine", description="Learning rate over the steps; warmup-cosine rises over the first 5 % of them."
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75), description="With schedule step: fractions of the steps after which the rate falls."
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="With schedule step: what the rate is multiplied by.")
    batch_size: int = Field(8, ge=2, le=4096, description="Images a step; two at least, for batch normalisation.")
    normalise: Literal["once", "twice"] = Field(
        "once", description="twice repeats the defect of paper A's code, which normalises what is normalised already."
    )

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        if arch not in ARCHITECTURES:
            exact = {name.lower(): name for name in ARCHITECTURES}
            close = exact.get(arch.lower().replace("+", "plus").replace("-", "").replace("_", ""))
            hint = f"; did you mean {close!r}?" if close else nearest(arch, list(ARCHITECTURES))
            raise ValueError(f"there is no architecture {arch!r}{hint} (there are: {', '.join(ARCHITECTURES)})")
        return arch

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, encoder: str) -> str:
        if encoder in ENCODERS or encoder == "tu-tf_efficientnet_lite0":
            return encoder
        if encoder.startswith("tu-"):
            # timm's names may end in the tag of a weights set, as in vit_base_patch16_224.augreg_in21k.
            name, known = encoder[3:].partition(".")[0], timm_models()
            if not known or name in known:
                return encoder
            raise ValueError(
                f"timm has no model {name!r}{nearest(name, sorted(known))}, so there is no encoder {encoder!r}"
            )
        if encoder in timm_models():
            raise ValueError(f"there is no encoder {encoder!r}; did you mean 'tu-{encoder}'?")
        raise ValueError(
            f"there is no encoder {encoder!r}{nearest(encoder, ENCODERS)} (docs/reference/segmenters.md lists them; "
            "models of timm are tu-NAME)"
        )

    @field_validator("milestones")
    @classmethod
    def _rising_fractions(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if not milestones or list(milestones) != sorted(set(milestones)) or not all(0 < m < 1 for m in milestones):
            raise ValueError(
                f"milestones must be rising fractions of the steps between 0 and 1, got {list(milestones)}"
            )
        return milestones

    @model_validator(mode="after")
    def _possible_combination(self) -> SMPParameters:
        arch, encoder = self.arch, self.encoder
        plain_transformer = encoder.startswith(_PLAIN_TRANSFORMERS)
        if arch in ("UnetPlusPlus", "Linknet") and encoder.startswith("mit_"):
            raise ValueError(f"{arch} cannot use the encoder {encoder!r}; use Unet, FPN or Segformer with it")
        if arch in _DILATED and encoder.startswith(_CANNOT_DILATE):
            raise ValueError(f"{arch} needs an encoder that can be dilated, {encoder!r} cannot; use a resnet, or FPN")
        if arch == "DPT" and not plain_transformer:
            raise ValueError(
                f"DPT needs a plain vision transformer such as 'tu-vit_base_patch16_224.augreg_in21k', got {encoder!r}"
            )
        if arch != "DPT" and plain_transformer:
            raise ValueError(f"{arch} needs an encoder with several resolutions, {encoder!r} has one; use DPT with it")
        return self

    @model_validator(mode="after")
    def _known_decoder_options(self) -> SMPParameters:
        allowed = ARCHITECTURES[self.arch]
        for name, value in self.decoder.items():
            if name not in allowed:
                raise ValueError(
                    f"{self.arch} has no decoder option {name!r}{nearest(name, list(allowed))} "
                    f"(it has: {', '.join(allowed)})"
                )
            try:
                TypeAdapter(allowed[name]).validate_python(value)
            except ValidationError as error:
                what = error.errors()[0]["msg"]
                raise ValueError(f"decoder option {name} of {self.arch} cannot be {value!r}: {what}") from None
        self._check_widths()
        return self

    def _check_widths(self) -> None:
        widths, depth = self.decoder.get("decoder_channels"), self.decoder.get("encoder_depth", 5)
        if self.arch in _ONE_WIDTH_A_LEVEL and len(widths or [0] * 5) != depth:
            raise ValueError(
                f"{self.arch} needs one number in decoder_channels for each of its {depth} levels (encoder_depth), "
                f"got {widths or 'none'}"
            )

"""What the style transfer can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.learning import Parameters

Layer = Literal[
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4",
    "conv4_1", "conv4_2", "conv4_3", "conv4_4", "conv5_1", "conv5_2", "conv5_3", "conv5_4",
]  # fmt: skip
NetworkName = Literal["vgg19-imagenet", "vgg16-imagenet", "vgg16-edges"]

#: Images optimised together: on a CPU more gain nothing, and fewer are left over; a GPU wants many.
ON_CPU, ON_GPU = 8, 64


class StyleTransferParameters(Parameters):
    """What a style transfer can be told; the defaults are paper B's."""

    content: float = Field(1.0, ge=0, description="weight of the content loss: keep what the synthetic image shows")
    style: float = Field(1000.0, ge=0, description="weight of the style loss: take over the source's textures")
    steps: int = Field(1000, ge=1, description="steps of Adam on each image")
    learning_rate: float = Field(0.01, gt=0, description="of Adam, on images normalised as for ImageNet")
    content_layer: Layer = Field("conv5_1", description="layer of VGG19 whose features are kept")
    style_layers: dict[Layer, float] = Field(
        {"conv1_1": 0.75, "conv2_1": 0.5, "conv3_1": 0.25, "conv4_1": 0.25, "conv5_1": 0.25},
        min_length=1,
        description="layers of VGG19 whose Gram matrices are taken over, and their weights",
    )
    features: Literal["after-relu", "before-relu"] = Field(
        "after-relu", description="where in a layer features are taken; paper B's code in effect takes them after it"
    )
    network: Literal["auto", "vgg19-imagenet", "vgg16-imagenet", "vgg16-edges", "random"] = Field(
        "auto", description="network of the features; auto takes the first of these that `harness weights` has"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network; auto takes bfloat16 where the device computes with it"
    )
    images_at_once: int | None = Field(
        None, ge=1, description=f"images optimised together; {ON_CPU} on a CPU and {ON_GPU} on a GPU when not said"
    )

    @model_validator(mode="after")
    def _wants_something(self) -> StyleTransferParameters:
        if self.content == self.style == 0:
            raise ValueError("content and style are both 0, so nothing would happen; give one of them a weight")
        if any(weight < 0 for weight in self.style_layers.values()):
            raise ValueError(f"weights in style_layers must not be below 0, got {self.style_layers}")
        return self

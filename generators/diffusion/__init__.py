"""Diffusion models of masks and of images for masks: what `mask-ddpm` and `mask-ldm` share."""

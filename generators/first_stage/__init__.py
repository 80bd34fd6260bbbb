"""The first stage of latent diffusion: an autoencoder whose latents are four times smaller than images, and quantised.

It is no plugin; ``mask-ldm`` trains one, or loads one, before it learns to make latents.
"""

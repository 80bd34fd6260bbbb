"""Pinned network weights: which there are, where they lie, how to get them. Imports ``errors`` and ``home`` only."""

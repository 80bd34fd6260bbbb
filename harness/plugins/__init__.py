"""What a generator, a refiner and a segmenter are, how they are found, and the fingerprint of their code.

Imports ``errors`` and ``data``.
"""

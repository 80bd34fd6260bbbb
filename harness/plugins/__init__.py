"""What a generator, a refiner and a segmenter are, how they and all else that one file adds are found, and the
fingerprint of their code.

Imports ``errors``, ``home`` and ``data``.
"""

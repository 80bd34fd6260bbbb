"""What is measured of segmentations and of synthetic sets. Imports ``weights``, ``store`` and ``data``."""

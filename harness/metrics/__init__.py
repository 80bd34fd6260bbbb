"""Segmentation and fidelity metrics, each with its source."""

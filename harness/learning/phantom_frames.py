"""Frames of the embedded phantom, drawn by its own rule."""

from harness.data.phantom import render

__all__ = ["render"]

"""Scores of predicted masks against true ones."""

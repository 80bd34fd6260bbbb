"""Pairs, dataset sources, splits, lineage and checks."""

"""What the user wrote: the declaration of a study, its recipes, and where studies are.

Imports ``errors`` and ``home`` only.
"""

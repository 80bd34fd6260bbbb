"""Segmenter plugins: one file each, found by file name (``smp.py`` is the plugin ``smp``)."""

"""Segmenter plugins: a file or a folder each, by its name (the folder ``smp`` is the plugin ``smp``)."""

"""Generator and refiner plugins: one file each, found by file name (``copy_paste.py`` is the plugin ``copy-paste``)."""

"""Generator and refiner plugins: a file or a folder each, by its name (``copy_paste.py`` is the plugin ``copy-paste``).

What several of them share is no plugin: the folders ``diffusion``, ``first_stage`` and ``four_channel_gan``, and the
files ``adversarial_losses``, ``cuda_graph``, ``randomness``, ``several_devices``, ``specks`` and ``stepped_fit``.
"""

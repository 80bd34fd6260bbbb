"""Reading images and masks from files as datasets are read, for plugins that bring pictures of their own."""

from harness.data.decoding import EXTENSIONS, binarise, in_threads, open_picture, resize_mask

__all__ = ["EXTENSIONS", "binarise", "in_threads", "open_picture", "resize_mask"]

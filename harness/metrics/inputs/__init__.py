"""The one way of finding and reading images and masks that a user names."""

"""Features of images by networks, extracted once."""

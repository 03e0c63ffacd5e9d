"""Where the model looked, and which training records resemble an image."""

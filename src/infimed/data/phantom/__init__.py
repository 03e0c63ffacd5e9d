"""The phantom clinic: procedural patients with images, texts and the truth."""

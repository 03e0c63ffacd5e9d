"""InfiMed: train, measure and serve medical vision-language models on your own data."""

__version__ = "0.1.0"

"""A model at work: an OpenAI-compatible server, safe by default."""

"""Floor 3: the network, its processor, presets and weights."""

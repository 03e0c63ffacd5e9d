"""Floor 3: near-duplicate and leakage matching of texts and images."""

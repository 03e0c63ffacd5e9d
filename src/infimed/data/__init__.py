"""Floor 2: Record, readers, shards, safe image decoding, phantoms."""

"""Floor 3: pack plans and rows."""

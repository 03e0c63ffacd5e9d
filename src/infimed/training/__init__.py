"""Floor 5: stages, rows, loop, loss, optimizer, checkpoints."""

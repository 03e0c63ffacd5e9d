"""Floor 1: recipe types, errors, atomic files, run folder, progress, seeds. Imports no other room."""

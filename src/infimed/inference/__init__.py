"""Floor 4: answers from a model, local or remote, and the store that keeps them."""

"""Floor 6: the recipe's steps in order, from files to a report."""

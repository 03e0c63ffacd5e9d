"""A judge reads stored answers: what it is asked, what it said, and how far it agrees with the rules."""

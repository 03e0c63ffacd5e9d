"""Floor 7: one thin module a command: parse, call, print."""

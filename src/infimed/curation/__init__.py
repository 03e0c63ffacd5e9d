"""Floor 4: signals, rules, verdicts and the ledger."""

"""De-identification: header table, identifiers in texts, burned-in text. See docs/privacy.md."""

"""The rules, one file per dimension; `infimed.curation.rubric` assembles them."""

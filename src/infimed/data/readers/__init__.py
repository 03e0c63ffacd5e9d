"""One reader a format. Every reader yields Records or a ReadProblem, never raises on one bad item."""

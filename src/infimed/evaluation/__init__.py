"""Floor 5: tasks, extraction, metrics, controls and reports."""

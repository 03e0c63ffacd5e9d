"""The four applications: *ask*, *report*, *differential* and *consult*, calibrated and able to abstain."""

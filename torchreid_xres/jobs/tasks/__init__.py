"""The work of a stage that is no training loop."""

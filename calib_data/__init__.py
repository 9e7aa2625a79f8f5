"""Tasks and their data: what a model is fed."""

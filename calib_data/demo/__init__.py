"""The built-in demo: a review corpus made by a grammar, and a small BERT trained on it."""

"""Evaluation: metrics, paired comparison, gates."""

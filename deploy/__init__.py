"""Command line, pipeline, engines, evaluation and report."""

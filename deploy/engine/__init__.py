"""Engines: building them, running them, and reading what the builder made of the graph."""

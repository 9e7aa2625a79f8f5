"""How well a model does a task, and how far a lower precision falls behind the reference."""

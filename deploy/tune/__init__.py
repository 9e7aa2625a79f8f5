"""Which parts of an encoder quantization hurts, and the fastest recipe that hurts little enough."""

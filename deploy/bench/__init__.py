"""How fast every precision runs: latencies, their comparison, and the machine's state."""

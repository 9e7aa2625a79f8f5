"""What this machine has, what works on it, and what would add the rest; nothing heavy is loaded."""

"""The command line: arguments -> configuration -> function -> result."""

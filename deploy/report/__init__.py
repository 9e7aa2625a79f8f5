"""Reports, made from results.json alone."""

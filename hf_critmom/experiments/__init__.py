"""The experiments: comparison, diagnosis and repair, of one shape and independent of one another."""

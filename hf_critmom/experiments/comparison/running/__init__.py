"""The runs of a comparison: checks before them, one run from start to result, what is recorded and shown of it."""

"""Statistics of a comparison: pure functions of its results."""

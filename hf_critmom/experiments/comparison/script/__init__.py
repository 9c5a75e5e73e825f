"""Comparisons in a training script of somebody else's, which runs unmodified, each run in processes of its own."""

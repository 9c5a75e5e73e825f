"""What an experiment keeps on disk: atomic writes, locks, plans, run folders, checkpoints and the environment."""

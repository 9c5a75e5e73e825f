"""Everything experiments keep on disk, and the processes that share it: atomic writes, locks, plans, runs, workers."""

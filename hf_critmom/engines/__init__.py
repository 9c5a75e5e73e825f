"""Engines: what makes the runs of an experiment, in processes of this machine (`local`) or of a Ray cluster (`ray`)."""

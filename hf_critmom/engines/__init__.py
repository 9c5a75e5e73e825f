"""Engines make the runs of an experiment: in processes of this machine (`local`) or on a Ray cluster (`ray`)."""

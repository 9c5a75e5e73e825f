"""Engines execute the runs of an experiment: in local processes (`local`) or on a Ray cluster (`ray`)."""

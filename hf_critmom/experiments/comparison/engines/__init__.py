"""Engines: what makes the runs of a comparison, in processes of this machine (`local`) or of a Ray cluster (`ray`)."""

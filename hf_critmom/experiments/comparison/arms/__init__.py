"""Arms: methods as data, by name, from a file, or of other packages; their schedules."""

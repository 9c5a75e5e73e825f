"""Arms: methods as data, by name, from a file or from other packages, and their schedules."""

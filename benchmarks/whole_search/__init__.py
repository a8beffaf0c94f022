"""A whole search beside what its users would write by hand, by wall time and epochs."""

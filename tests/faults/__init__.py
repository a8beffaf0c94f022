"""Faults in real searches: processes that die or hang, and files that are cut short."""

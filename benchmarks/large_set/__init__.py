"""Time and memory of a large set of generated JPEGs: reading, bank and one epoch."""

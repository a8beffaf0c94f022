"""Generated teachers: activations, generators, criteria and selection."""

"""Big models and students by name, their size and latency, and loading weights safely."""

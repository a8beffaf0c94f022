"""A run's folder: paths, lock and replication."""

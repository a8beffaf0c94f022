"""What a training step costs, by method, number of workers and library."""

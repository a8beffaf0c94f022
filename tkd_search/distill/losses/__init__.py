"""The student's objective: terms, rewards and baselines."""

"""What a worker group runs: train F, make the bank, run a trial, test the front."""

"""The jobs of a worker group: train a big model, make the bank, run a trial, measure the front."""

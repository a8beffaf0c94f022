"""What is read from the big model: taps, statistics, projection and the bank."""

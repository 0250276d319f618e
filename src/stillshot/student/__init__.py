"""Models that see the query alone: heads, tuning, losses, training, and saved students."""

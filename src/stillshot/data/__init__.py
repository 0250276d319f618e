"""Data sets: loaders and the embedded sample."""

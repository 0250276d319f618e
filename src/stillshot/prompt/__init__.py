"""From examples to the exact token ids that a model reads."""

"""The compared methods: each makes a predictor from the same budget of labels and queries."""

"""Metrics, intervals, resources and the records of what was measured."""

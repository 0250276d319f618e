"""Stillshot turns a few-shot prompt into a small model."""

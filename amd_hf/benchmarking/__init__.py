"""Measuring how fast one's own data load, and what a GPU needs."""

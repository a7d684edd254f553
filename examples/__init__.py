"""Demos, and the data that they render."""

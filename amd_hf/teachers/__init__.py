"""Frozen encoders that guide the student."""

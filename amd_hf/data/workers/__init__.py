"""Processes that read and decode."""

"""Folders and files that programs write."""

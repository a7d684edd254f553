"""Annotated films: AVA and your own."""

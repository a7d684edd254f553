"""Transformers' own common tests, run over our classes and over VideoMAE: `make test-library`."""

"""Checkpoints of others: `reading.py` reads a file, `conversion.py` makes a model of it and back, by `families.py`."""

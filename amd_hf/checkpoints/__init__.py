"""Checkpoints of others: `reading.py` reads them, `conversion.py` converts them by the tables of `families.py`."""

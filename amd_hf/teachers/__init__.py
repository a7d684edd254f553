"""Frozen models that guide the student: `loading.py` makes one, `frozen.py` stands beside the student with it."""

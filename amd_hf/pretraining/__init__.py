"""The paper: its masks and its loss in `distillation.py`, the step in `trainer.py`, and what to look at afterwards."""

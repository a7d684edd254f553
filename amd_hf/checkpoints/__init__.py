"""Official checkpoints and those of Transformers, read and written."""

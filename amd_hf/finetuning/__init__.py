"""Fine-tuning a pre-trained encoder."""

"""Pre-training by distillation, fine-tuning, and what both need: losses, optimizer groups, schedules, callbacks."""

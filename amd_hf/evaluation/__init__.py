"""The multi-view test and probes of frozen features."""

"""Cards of runs, and publishing."""

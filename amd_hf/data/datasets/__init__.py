"""One module per data set layout; each yields the same `VideoRows` (see `rows`)."""

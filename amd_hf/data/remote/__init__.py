"""Files at addresses: fetched in ranges, cached on the disk."""

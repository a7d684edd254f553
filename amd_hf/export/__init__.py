"""Models in the formats of other runtimes: exported, compared, measured, and run through the same views."""

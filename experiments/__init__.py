"""Studies: each file a function that returns a `Study`; values, not programs."""

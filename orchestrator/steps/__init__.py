"""Steps, plans of them, and the differences between two."""

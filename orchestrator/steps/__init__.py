"""Steps, plans, and why two steps differ."""

"""The way from a study to a plan: checks, lowering, and what a plan knows of its data."""

"""A study and a store: what its search or sweep chose, and the steps that follow."""

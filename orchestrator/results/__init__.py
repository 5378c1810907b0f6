"""Numbers read off a store: matrices, tables, claims, orders, savings."""

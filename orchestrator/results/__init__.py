"""Numbers read off a store: matrices, tables, statistics and claims, orders, savings."""

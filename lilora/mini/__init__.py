"""The mini benchmark's recipe: six tasks of the kinds of the CVIT benchmark, drawn from images inside packages.

Every item has a random generator of its own, seeded by (task, split, number): the data are the same on every machine
and in whatever order they are built.
"""

"""The places that a store can be in, behind the methods that `FolderBackend` documents: a folder, and objects with one.

A backend promises that an artifact counts whole or not at all, and that of several that are installed under one digest
the first stays. What is staged, who may make it and what a record says is `Store`'s.
"""

"""The command line's commands: a file each, or one for a few that share most of their code.

A command is its function: its options are the signature, its help is the docstring, which ends in an example.
All of these files are imported for `lilora --help`, so what takes long to import is imported by the function that uses
it, and named above it for types alone.
"""

"""Scorers, one a file; the file's name is the entry, and it exports `SCORER`."""

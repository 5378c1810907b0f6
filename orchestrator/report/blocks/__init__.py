"""Blocks of the report: each a function of results that gives the variables of a section of the page."""

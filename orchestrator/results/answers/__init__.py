"""Answers read off a store, item by item, as polars frames: their form, their scores, and in what they are wrong."""

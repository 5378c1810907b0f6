"""Measures of an answer against right ones: words, boxes, forms, captions."""

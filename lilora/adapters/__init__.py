"""Adapters: what is put on a model, carried from stage to stage, and taken off."""

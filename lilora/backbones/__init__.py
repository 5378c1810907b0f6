"""Backbones: a file each, exporting `BACKBONE`."""

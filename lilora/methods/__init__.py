"""Methods: a file each, exporting `METHOD`."""

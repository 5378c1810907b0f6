"""Artifacts: where they are, whether they are whole, and who may make them; on a disk or behind a URL."""

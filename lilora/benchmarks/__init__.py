"""Benchmarks: a file each, exporting `BENCHMARK`."""

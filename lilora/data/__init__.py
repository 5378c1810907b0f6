"""The way from published files to a task's Parquet: where they lie, readers, checks, the build."""

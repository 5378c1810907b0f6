"""The plumbing: steps, plans, store, executor, tracking, reports and the command line."""

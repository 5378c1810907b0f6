"""A sweep at work: Ray Tune's trials, and how they ask the one executor for their steps."""

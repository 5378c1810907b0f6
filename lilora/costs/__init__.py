"""Costs of a stage and of answering before they are run: parameters, FLOPs, memory, GPUs."""

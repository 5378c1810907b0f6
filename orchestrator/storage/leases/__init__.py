"""Leases: one maker per step among the processes of many machines."""

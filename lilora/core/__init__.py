"""Identity of values, the registry of plug-ins, the handle of a running step, and what machine and user have."""

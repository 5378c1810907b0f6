"""Identity of values, the registry of plug-ins, the handle of a running step, and limits that rooms share."""

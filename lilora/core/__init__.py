"""Identity of values, the registry of plug-ins, and how a step talks to what runs it."""

"""The science of continual visual instruction tuning: usable in a notebook or under torchrun, without Ray."""

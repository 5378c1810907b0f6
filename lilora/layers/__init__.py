"""Layers that methods put in place of a linear layer; PEFT has the others."""

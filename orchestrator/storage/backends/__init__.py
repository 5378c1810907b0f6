"""The two places that a store can be in, a folder and an object store, behind one interface."""

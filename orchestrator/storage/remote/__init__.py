"""A store on an object store: its objects, its listing, checkpoints, and the same interface in front."""

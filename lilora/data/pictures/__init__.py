"""Pictures of published data: their places and bytes, what is wrong with them, and how they are decoded."""

"""Worker processes: the pool, resident actors, trainers and their groups."""

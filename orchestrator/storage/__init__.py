"""What is kept, and where: a folder for each artifact, its record, and who may make it; on a disk or behind a URL."""

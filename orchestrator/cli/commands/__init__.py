"""What the command line's commands do, a file a group; imported only by the command that runs."""

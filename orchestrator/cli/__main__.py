"""The command line by its module's name, `python -m orchestrator.cli`: a job on a cluster calls it so."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()

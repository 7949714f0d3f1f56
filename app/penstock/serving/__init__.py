"""The one HTTP app of a process. Runners do not know it: the command line hands it to them."""

"""The one HTTP app of a process. Runners do not import it: the command line passes it to them."""

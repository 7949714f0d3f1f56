"""A worker's side of releases: follows the control log, makes ready what it announces, switches, and reports how it is."""

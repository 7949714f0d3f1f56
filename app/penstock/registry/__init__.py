"""Storage of model versions; one file per backend."""

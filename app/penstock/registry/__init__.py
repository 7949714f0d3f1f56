"""Where model versions live; one file a backend."""

"""One model, from file to serving: what the file may hold, what its manifest says, loading, running, checking."""

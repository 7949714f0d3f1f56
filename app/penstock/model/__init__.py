"""One model, from file to serving: the permitted content of the file, the manifest, loading, running, checking."""

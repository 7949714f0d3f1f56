"""The control topic as a protocol: what is said on it, what follows from it, and how a worker carries it out."""

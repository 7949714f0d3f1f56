"""The operator's side of releases: reads both topics, proposes, checks, and writes control messages."""

"""Stores: answers that were computed before, by key. `base` is the contract, and each store is a file."""

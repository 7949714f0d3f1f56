"""The control topic as a protocol: its messages, the state that follows from them, and what a worker does about it."""

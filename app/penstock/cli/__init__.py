"""The commands that a person types: one module per command, imported when the command is called."""

"""What a person types: one module a command, imported when it is called."""

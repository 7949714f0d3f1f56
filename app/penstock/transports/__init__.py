"""Where records come from and go: `base` is the port, and each medium a module or a package."""

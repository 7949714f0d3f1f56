"""Where records come from and go; one package a medium."""

"""The demo: a live view of half a year of real flights through a real worker. `penstock demo` finds it in a clone and runs it."""

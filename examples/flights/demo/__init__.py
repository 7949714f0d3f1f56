"""The demo: half a year of real flights through a real worker, watched live. `penstock demo` finds it in a clone and runs it."""

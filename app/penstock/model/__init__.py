"""One model, from file to serving: the permitted content of the file, the manifest, loading, running, checking."""

from penstock.settings import keep_runtime_silent

keep_runtime_silent()  # here, since every import of the runtime comes after this one, and it does not listen later

"""A topology as a folder that scores anywhere, offline: `write` makes it, `folder` checks and loads it, a browser reads its `plan`."""

"""Which units share a kernel: rules, search, and the passes that improve on it."""

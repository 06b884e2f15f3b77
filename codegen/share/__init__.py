"""Which launches do the same, and so share one kernel."""

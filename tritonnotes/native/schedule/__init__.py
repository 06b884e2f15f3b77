"""The order in which a function is emitted, and what its data says before."""

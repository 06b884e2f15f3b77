"""Updates of parameters: the rules, and what appends them to a graph."""

"""Text, names and sizes that every stage uses."""

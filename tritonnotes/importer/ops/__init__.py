"""What a call of torch becomes: `table.py` says which op of ours, and what has none stays a call."""

"""What a launch costs: bytes moved, rows read again, matrix products."""

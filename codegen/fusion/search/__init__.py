"""The search for the best partition: greedy, then branch and bound over groups of units."""

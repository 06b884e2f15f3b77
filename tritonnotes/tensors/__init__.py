"""What torch tensors of declared values are: their dtypes, their first values, the seeds of random ones."""

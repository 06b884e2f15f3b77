"""Graphs of torch modules: `torch.export` says which ops a module calls, and `table.py` which of ours they are."""

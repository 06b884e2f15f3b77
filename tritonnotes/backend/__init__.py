"""`torch.compile(model, backend="tritonnotes")`: the parts of a graph that have kernels here as programs, the rest as
torch's calls. `compiling.py` names the steps from top to bottom."""

"""How a graph becomes kernels, in layers that import only downward.

`pipeline.py` names every pass in order and is read first. The layers, from the bottom up:

- `support`, `target`: text, names and sizes; GPUs, compiling, caching and loading;
- `analysis`: what the values of a graph are to a kernel;
- `canonicalize`, `cost`, `fusion`: units to kernels;
- `plan`: kernels to launches;
- `lower`, `memory`, `emit`: launches to tile programs, buffers, and Triton source;
- `program`, `pipeline.py`;
- `optimizer`, `report`: updates of many parameters in one launch; explanations and kernel reports.
"""

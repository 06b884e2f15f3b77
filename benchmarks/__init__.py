"""Speed beside others on a GPU, plans and compile times beside TorchInductor's on any machine: docs/benchmarks.md."""

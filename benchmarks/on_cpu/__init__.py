"""What `benchmarks/cpu.py` times: work, peers, the machine, and the report."""

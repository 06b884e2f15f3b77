"""What a plan and its kernels are, told to people: explanations, accesses, kernel reports."""

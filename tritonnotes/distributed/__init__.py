"""Steps that several processes share, over torch.distributed."""

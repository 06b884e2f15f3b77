"""Optimizer updates of many parameters in one launch, found through tables."""

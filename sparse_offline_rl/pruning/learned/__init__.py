"""Sparsity that is learned together with the weights, and then made masks of."""

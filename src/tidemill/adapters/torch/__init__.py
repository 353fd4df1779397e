"""PyTorch: models that `torch.export` has made a graph of."""

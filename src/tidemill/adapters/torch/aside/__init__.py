"""What runs in an interpreter that has PyTorch and no Tidemill."""

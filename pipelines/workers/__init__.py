"""The CPU-worker loaders: PyTorch's DataLoader on the numpy reference, and MONAI's data sets."""

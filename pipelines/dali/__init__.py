"""The GPU-offloaded loader: patches from host, device or DALI's own reader, through one graph."""

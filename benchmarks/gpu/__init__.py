"""What gpu_check adds to loader_compare: rows, the bus, one page."""

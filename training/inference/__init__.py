"""From weights and a volume to a label map on the file's grid, and to its score."""

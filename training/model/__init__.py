"""What is trained and kept: networks, losses, recipes, number formats, the spec and the checkpoint."""

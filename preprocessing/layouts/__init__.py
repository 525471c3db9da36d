"""How a data set may lie on disk, and what it says of its channels, labels and regions."""

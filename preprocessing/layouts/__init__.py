"""How a data set can be laid out on disk, and what it says about its channels, labels and regions."""

"""Train, predict with and score segmentation networks."""

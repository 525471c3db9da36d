"""What nnU-Net looks into; ``python -m pipelines.nnunet`` prints its path."""

"""What nnU-Net looks into; ``python -m training.nnunet`` prints its path."""

"""What runs when SageMaker starts the image, inside."""

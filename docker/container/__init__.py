"""What runs in the container when SageMaker starts it."""

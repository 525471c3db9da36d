"""What the launcher asks SageMaker to do."""

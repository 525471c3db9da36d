"""What is asked of SageMaker, from outside."""

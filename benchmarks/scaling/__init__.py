"""What scale is made of: the plan on many ranks, stores of many cases, a model of storage."""

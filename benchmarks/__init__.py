"""Measure loaders and training steps, with machine, data, runs and spread."""

"""Batches in, checkpoints, predictions and scores out.

Commands: ``run``, ``predict``, ``evaluate``, ``report``.
"""

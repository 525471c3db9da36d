"""Batches in, checkpoints, predictions and scores out.

Commands: ``run``, ``study``, ``predict``, ``evaluate``, ``report``.
"""

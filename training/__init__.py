"""Batches in, checkpoints, predictions and scores out.

Commands: ``run``, ``study``, ``predict``, ``evaluate``, ``report``.
"""

from preprocessing.console.interrupt import end_quietly

end_quietly(__name__)

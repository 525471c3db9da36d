"""Batches in, checkpoints, predictions and scores out.

Commands: ``run``, ``predict``, ``evaluate``, ``report``.
"""

from preprocessing.console.interrupt import end_quietly

end_quietly(__name__)

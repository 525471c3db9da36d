"""Settings of the peers that more than their own rows need to know, so that nobody has to import the peers for them."""

from __future__ import annotations

SAMPLES_PER_VOLUME, QUEUE_LENGTH = 4, 16  # patches that TorchIO's queue cuts from a volume, and those it holds
NUM_CACHED = 6  # batches that nnU-Net's augmenter keeps, in two queues (nnUNetTrainer.get_dataloaders)

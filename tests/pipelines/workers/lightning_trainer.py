"""A user's script: Lightning's Trainer on our loader.

``lightning_trainer.py STORE FOLDER STEPS`` trains two epochs, or dies after as many steps and leaves FOLDER/ckpt; where
that is there already it goes on from it. Prints the cases it saw, one line a batch, and the sum of the weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader


class Segmenter(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = UNet(spatial_dims=3, in_channels=4, out_channels=4, channels=(8, 16), strides=(2,))
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def training_step(self, batch: dict[str, Any], _: int) -> Any:
        sys.stdout.write(" ".join(batch["case_ids"]) + "\n")
        return self.loss(self.network(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class DieAfter(lightning.Callback):
    """End the process as a power cut would, once a checkpoint of ``step`` steps is written."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            sys.stdout.flush()
            os._exit(9)


def main(store: str, folder: Path, die_after: int) -> None:
    lightning.seed_everything(0)
    config = LoaderConfig(store=store, patch=(16, 16, 16), samples_per_case=2)
    kept = folder / "ckpt"
    with build_loader("dali", config) as loader:
        trainer = lightning.Trainer(
            max_epochs=2,
            callbacks=[DieAfter(die_after, kept)],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Segmenter()
        trainer.fit(module, loader.as_dicts(), ckpt_path=str(kept) if kept.exists() else None)
        total = torch.stack([weight.double().sum() for weight in module.parameters()]).sum().item()
        sys.stdout.write(f"weights {total:.12f}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

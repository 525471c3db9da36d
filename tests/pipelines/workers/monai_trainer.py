"""A user's script: MONAI's SupervisedTrainer on our loader. Prints the cases it saw, one line a batch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader


def main(store: str) -> None:
    network = UNet(spatial_dims=3, in_channels=4, out_channels=4, channels=(8, 16), strides=(2,))

    def prepare_batch(batch: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        sys.stdout.write(" ".join(batch.case_ids) + "\n")
        return batch.image, batch.label

    with build_loader("dali", LoaderConfig(store=store, patch=(16, 16, 16), samples_per_case=2)) as loader:
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=loader,
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            prepare_batch=prepare_batch,
        )
        trainer.run()


if __name__ == "__main__":
    main(sys.argv[1])

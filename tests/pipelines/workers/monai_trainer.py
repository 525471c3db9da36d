"""A user's script: MONAI's SupervisedTrainer and SupervisedEvaluator on our loader.

Prints the cases that training saw, one line a batch, and what the evaluator scored.
"""

from __future__ import annotations

import sys

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import AsDiscreted

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader


def main(store: str) -> None:
    network = UNet(spatial_dims=3, in_channels=4, out_channels=4, channels=(8, 16), strides=(2,))
    config = LoaderConfig(store=store, patch=(16, 16, 16), samples_per_case=2)
    with build_loader("dali", config) as loader, build_loader("torch", config) as validating:
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=validating.as_dicts(),
            network=network,
            postprocessing=AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=4),
            key_val_metric={
                "dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
            },
        )
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=loader.as_dicts(),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            train_handlers=[ValidationHandler(interval=2, validator=evaluator)],
        )

        @trainer.on(Events.ITERATION_COMPLETED)
        def tell() -> None:
            sys.stdout.write(" ".join(item["case_ids"] for item in trainer.state.batch) + "\n")

        trainer.run()
        sys.stdout.write(f"dice {evaluator.state.metrics['dice']:.6f}\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""The file in which nnU-Net finds the trainer: ``nnUNet_extTrainer`` names this folder, and it holds nothing else."""

from pipelines.nnunet.trainer import nnUNetTrainerVoxelfeed

__all__ = ["nnUNetTrainerVoxelfeed"]

"""``nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerVoxelfeed``: nnU-Net's trainer, fed by the DALI loader."""

from __future__ import annotations

from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import distributed

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from pipelines.nnunet.feed import BatchShare, Feed, Targets, plan_epochs, share_of
from pipelines.nnunet.store import store_beside
from preprocessing.console.errors import InputError, RunError
from preprocessing.shards.store import Store

AXES = (0, 1, 2)
NOT_OURS = (  # what decides the data in nnU-Net: a trainer that has changed it would not be heard
    "get_training_transforms",
    "get_validation_transforms",
    "get_tr_and_val_datasets",
    "configure_rotation_dummyDA_mirroring_and_inital_patch_size",
)
GPU_SHARE = 0.25  # of the free memory, at most, for volumes: the rest is the network's


class nnUNetTrainerVoxelfeed(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801  # nnU-Net looks for names like this
    """Train as ``nnUNetTrainer`` does, on patches that the plan and the DALI graph deliver.

    ``seed`` decides the patches and their augmentation.
    """

    seed = 0

    def get_dataloaders(self) -> tuple[Feed, Feed]:
        """Return the endless feeds for training and validation; what cannot be had ends the command with one line."""
        try:
            self._refuse()
            return self._feeds()
        except (InputError, RunError) as error:
            raise SystemExit(f"nnUNetTrainerVoxelfeed: {error}") from error

    def on_train_end(self) -> None:
        """Save as nnU-Net does, and close the feeds."""
        super().on_train_end()
        self.dataloader_train.close()
        self.dataloader_val.close()

    def _refuse(self) -> None:
        """Raise ``InputError`` for what nnU-Net would train with other data than is delivered here."""
        if len(self.configuration_manager.patch_size) != len(AXES):
            raise InputError(f"configuration {self.configuration_name} is 2D; patches here are 3D, take nnUNetTrainer")
        if self.is_cascaded:
            raise InputError(f"configuration {self.configuration_name} is a cascade; take nnUNetTrainer")
        for name in NOT_OURS:
            if getattr(type(self), name) is not getattr(nnUNetTrainer, name):
                raise InputError(
                    f"{type(self).__name__} has its own {name}, which is not used here; take nnUNetTrainer"
                )
        if self.probabilistic_oversampling:
            raise InputError("probabilistic_oversampling is not drawn here; take nnUNetTrainer")
        if self.device.type not in ("cpu", "cuda"):
            raise InputError(f"device {self.device.type}: batches are made on cpu or cuda; take nnUNetTrainer")

    def _feeds(self) -> tuple[Feed, Feed]:
        *_, mirror_axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # keeps them for inference
        if tuple(mirror_axes) != AXES:
            raise InputError(f"mirror axes {mirror_axes}; all three are mirrored here, take nnUNetTrainer")
        train_ids, val_ids = (sorted(map(str, keys)) for keys in self.do_split())
        store = store_beside(Path(self.preprocessed_dataset_folder), {*train_ids, *val_ids})
        share = share_of(self._parts(), self.local_rank)
        return self._feed(store, train_ids, share, training=True), self._feed(store, val_ids, share, training=False)

    def _parts(self) -> list[tuple[int, float]]:
        """Return the batch size and the oversampled share of every rank."""
        own = self.batch_size, float(self.oversample_foreground_percent)
        if not self.is_ddp:
            return [own]
        parts = [own] * distributed.get_world_size()
        distributed.all_gather_object(parts, own)
        return parts

    def _feed(self, store: Store, case_ids: list[str], share: BatchShare, *, training: bool) -> Feed:
        iterations = self.num_iterations_per_epoch if training else self.num_val_iterations_per_epoch
        depth, height, width = (int(side) for side in self.configuration_manager.patch_size)
        window, samples_per_case = plan_epochs(len(case_ids), share.size, iterations)
        crop, gpu_cache = self._where_to_crop(store, training=training)
        config = LoaderConfig(
            store=store.root,
            cases=tuple(case_ids),
            patch=(depth, height, width),
            batch_size=self.batch_size,
            seed=self.seed,
            augment="full" if training else "none",
            foreground=share.forced / share.size,
            patch_rule="nnunet",
            device="gpu" if self.device.type == "cuda" else "cpu",
            num_threads=max(get_allowed_n_proc_DA() // (1 if training else 2), 1),
            reuse_buffers=True,
            window=window,
            samples_per_case=samples_per_case,
            crop=crop,
            gpu_cache=gpu_cache,
        )
        loader = build_loader("dali", config, share.rank, share.world_size)
        return Feed(loader, self._targets(training=training), iterations, self.current_epoch)

    def _where_to_crop(self, store: Store, *, training: bool) -> tuple[str, str]:
        """Keep the training volumes on a GPU where they take a quarter of what is free at most, else cut on the host.

        What is free when the loaders are built is what the network has yet to take.
        """
        if self.device.type != "cuda" or not training:
            return "host", "auto"
        limit = GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]
        needed = sum(shard.size_bytes for shard in store.manifest.shards)
        return ("device", f"{limit / 2**30:.3f}") if needed <= limit else ("host", "auto")

    def _targets(self, *, training: bool) -> Targets:
        labels, regions = self.label_manager, None
        if labels.has_regions:
            ignored = [] if labels.ignore_label is None else [labels.ignore_label]
            numbers = [*labels.foreground_regions, *ignored]
            regions = [(number,) if isinstance(number, int) else tuple(number) for number in numbers]
        used = self.configuration_manager.use_mask_for_norm or []
        return Targets(
            scales=self._get_deep_supervision_scales(),
            regions=regions,
            masked=[number for number, is_used in enumerate(used) if is_used] if training else [],
        )

"""Shards in, batches on the device out: ``from pipelines.loaders import LOADERS, LoaderConfig, build_loader``."""

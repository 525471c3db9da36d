"""The store on disk: its bytes, its index, its cases."""

from preprocessing.shards.case import Case
from preprocessing.shards.entries import CaseEntry, FileRecord, Manifest, ShardEntry
from preprocessing.shards.store import Store, open_store

__all__ = ["Case", "CaseEntry", "FileRecord", "Manifest", "ShardEntry", "Store", "open_store"]

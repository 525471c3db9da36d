"""What every experiment of the article takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preprocessing.phantom import DEFAULT_FOLDER


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where the data is, where the result goes, how often it is measured."""

    source: Path = DEFAULT_FOLDER
    """Data set folder in MSD layout. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for article-EXPERIMENT_MACHINE_DATE.json, .md and .png."""
    runs: int = 3
    """Measured runs (epochs, where there are epochs) after a first one."""

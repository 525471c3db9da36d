"""Print the folder for nnU-Net to look in: ``export nnUNet_extTrainer=$(python -m pipelines.nnunet)``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER, VARIABLE = Path(__file__).parent.absolute() / "trainers", "nnUNet_extTrainer"


def main() -> int:
    """Print the folder on standard output, and on standard error whether nnU-Net will find the trainer."""
    named = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    is_set = any(Path(path).absolute() == FOLDER for path in named)
    sys.stdout.write(f"{FOLDER}\n")
    if is_set:
        sys.stderr.write(f"{VARIABLE} names it: nnUNetv2_train finds -tr nnUNetTrainerVoxelfeed\n")
    elif sys.stdout.isatty():
        sys.stderr.write(f"{VARIABLE} does not name it: export {VARIABLE}={os.pathsep.join([*named, str(FOLDER)])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

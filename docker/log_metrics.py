"""What SageMaker reads out of the log and draws: regular expressions over the lines that a training prints.

The lines are those of ``training.progress`` (one for each epoch) and ``training.conclude`` (the last ones).
"""

NUMBER = r"([0-9.]+)"
EPOCH = "epoch [0-9]+  step [0-9]+  "
METRICS = {
    "epoch": "epoch ([0-9]+)  step",
    "loss": f"{EPOCH}loss {NUMBER}",
    "validation:dice": rf"  dice {NUMBER} \(",
    "patches_per_second": f"{EPOCH}.*  {NUMBER} patches/s",
    "waiting_percent": f"{EPOCH}.*waiting {NUMBER} %",
    "best:dice": f"best mean dice {NUMBER} in epoch",
}

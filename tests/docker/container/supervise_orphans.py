"""Run as the first process of a namespace: a command whose orphan has to be reaped by whoever is first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from container.supervise import Command, Stop, supervise

if __name__ == "__main__":
    script = Path(__file__).with_name("leave_orphan.sh")
    ended = supervise(Command(words=["sh", str(script)], environment=os.environ), Stop())
    sys.exit(0 if (ended.code, ended.reason) == (7, "error: none left") else 1)

"""Start the processes of a training with mpirun from the first host, the only way in which SMDDP's AllReduce works.

The options are those of ``SMDataParallelRunner`` in AWS's sagemaker-training-toolkit, which itself does not pass
SIGTERM on and so cannot be used on spot instances.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

import psutil

from container.sagemaker_job import Job
from container.supervise import Command, Stop
from container.torchrun import PORT, PORT_VARIABLE, network, processes_per_host, wait_for
from preprocessing.console.errors import InputError

SSHD, SSH_PORT = "/usr/sbin/sshd", 22
SERVER_PORT = "7592"
DAEMON = "orted"  # what mpirun starts on the other hosts


def mpirun(job: Job, arguments: Sequence[str], stop: Stop) -> Command:
    """Start the processes of all hosts; raises ``InputError`` without SMDDP's programs or without one of the hosts.

    mpirun passes SIGUSR1 on to every process; after SIGTERM it would kill them within a second.
    """
    missing = [name for name in (mpirun_program(), "smddprun") if shutil.which(name) is None]
    if missing:
        raise InputError(f"SMDDP without {' and '.join(missing)}: use the image of docker/Dockerfile.smddp")
    for host in job.hosts[1:]:
        wait_for(host, partial(_ssh, host), stop)
    words = mpirun_words(job, processes_per_host(job, arguments))
    return Command(
        words=[*words, "smddprun", sys.executable, "-m", "training.run", *arguments],
        environment=os.environ | host_name_library(),
        stop_signal=signal.SIGUSR1,
    )


def mpirun_program() -> str:
    """Return the name of mpirun itself: in containers of AWS ``mpirun`` is a shell script, which SIGUSR1 would end."""
    return "mpirun.real" if shutil.which("mpirun.real") else "mpirun"


def host_name_library() -> dict[str, str]:
    """Preload the library of AWS's toolkit that names hosts as SageMaker does, where it is there.

    mpirun itself has to know its host by that name too, or it does not find it in the list of hosts.
    """
    toolkit = find_spec("gethostname")
    return {} if toolkit is None or toolkit.origin is None else {"LD_PRELOAD": toolkit.origin}


def mpirun_words(job: Job, num_processes: int) -> list[str]:
    """Return mpirun and its options for ``num_processes`` on each host."""
    num_hosts = len(job.hosts)
    options = {
        "btl": "^openib",
        "pml": "ob1",
        "btl_vader_single_copy_mechanism": "none",
        "orte_abort_on_non_zero_status": "1",
        "plm_rsh_no_tree_spawn": "1",
        "plm_rsh_num_concurrent": str(num_hosts),
    }
    if job.interface is not None:
        options |= {"btl_tcp_if_include": job.interface, "oob_tcp_if_include": job.interface}
    hosts = ",".join(f"{host}:{num_processes}" for host in job.hosts)
    words = [mpirun_program(), "--allow-run-as-root", "--oversubscribe"]
    words += ["-np", str(num_hosts * num_processes), "--host", hosts]
    words += [word for name, value in options.items() for word in ("-mca", name, value)]
    words += [word for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ for word in ("-x", name)]
    return words + [word for name, value in _environment(job).items() for word in ("-x", f"{name}={value}")]


def _environment(job: Job) -> dict[str, str]:
    """Return the environment variables of the training processes."""
    exported = network(job) | host_name_library() | {"FI_PROVIDER": "efa", "RDMAV_FORK_SAFE": "1"}
    exported |= {"MASTER_ADDR": job.hosts[0], "MASTER_PORT": os.environ.get(PORT_VARIABLE, PORT)}
    if job.instance_type.startswith("ml.p4d"):
        exported["FI_EFA_USE_DEVICE_RDMA"] = "1"
    if len(job.hosts) == 1:
        exported["SMDATAPARALLEL_USE_SINGLENODE"] = "1"
    else:
        exported["SMDATAPARALLEL_USE_HOMOGENEOUS"] = "1"
        exported |= {"SMDATAPARALLEL_SERVER_ADDR": job.hosts[0], "SMDATAPARALLEL_SERVER_PORT": SERVER_PORT}
        exported["SAGEMAKER_INSTANCE_TYPE"] = job.instance_type
    return exported


def _ssh(host: str) -> None:
    socket.create_connection((host, SSH_PORT), timeout=5).close()


def serve_first_host(stop: Stop) -> None:
    """Accept mpirun's connection on a host that is not the first, and wait until its daemon has ended.

    The first host passes SIGTERM on to all processes. Here it only ends the wait for a daemon that has not started.
    """
    server = subprocess.Popen([SSHD, "-D"])
    was_here = False
    while True:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # the daemon detaches and becomes a child of the first process
        names = (process.info for process in psutil.process_iter(["name", "status"]))
        is_here = any(info["name"] == DAEMON and info["status"] != psutil.STATUS_ZOMBIE for info in names)
        if not is_here and (was_here or stop.is_asked):
            break
        was_here = was_here or is_here
        time.sleep(1)
    server.terminate()

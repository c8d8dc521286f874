"""Forks workers of Ray, and commands, from a process that has imported torch and raylens: `python pool.py SOCKET`.

The tests start hundreds of them, and to import the same modules takes each ten seconds of a CPU. They are started as
ever; sitecustomize.py hands them over to this process, which is connected to no Ray and has no thread but that of
pyarrow's allocator, which expects forks.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress

MODULES = (  # but not Ray: it reads the job that it works for while it is imported
    "fsspec",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "sklearn.metrics",
    "timm",
    "torch.distributed",
    "torch.utils.tensorboard",
    "raylens.cluster.worker",
)


def asked(listener: socket.socket) -> socket.socket:
    """Wait for who asks for a process; returns a connection in a process of its own, and never in this one."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # the tests have ended
            sys.exit()
        asking, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return asking
        asking.close()


def forked(asking: socket.socket) -> list[str]:
    """The words of the process that is forked as was asked, in that process; this one waits for its end."""
    _, descriptors, _, _ = socket.recv_fds(asking, 1, 3)
    with asking.makefile("rb") as lines:
        begun = json.loads(lines.readline())
    child = os.fork()
    if child:
        end = os.pidfd_open(child)
        if asking in select.select([end, asking], [], [])[0]:
            os.kill(child, signal.SIGKILL)  # as whoever asked was
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        with suppress(BrokenPipeError):
            asking.send(b"%d" % (code if code >= 0 else 128 - code))
        os._exit(0)
    asking.close()
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setpriority(os.PRIO_PROCESS, 0, begun["nice"])
    os.chdir(begun["folder"])
    os.environ.clear()
    os.environ.update(begun["environ"])
    return begun["argv"]


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        for module in MODULES:
            importlib.import_module(module)
        asking = asked(listener)
    words = forked(asking)
    if more := os.environ["PYTHONPATH"].split(os.pathsep)[:-1]:  # a job's own code
        sys.path[1:1] = more
        for name in [name for name in sys.modules if name.partition(".")[0] == "raylens"]:
            del sys.modules[name]
    if words[0] == "-m":
        sys.argv[:], sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = words, os.path.dirname(words[0])
        runpy.run_path(words[0], run_name="__main__")

"""Read by every Python that starts under the tests: a worker of Ray, or a command, is forked by pool.py instead.

Commands are, where a test asks for it by `RAYLENS_TEST_WARM`: one that is to be sent a signal starts as ever. Every
process pays for what stands here, so it is little.
"""

import os
import sys


def _from_pool(address: str, argv: list[str]) -> None:
    """Let the pool fork a process with `argv`, and end as that does; without a pool, go on as if nothing was asked."""
    import json
    import socket

    with socket.socket(socket.AF_UNIX) as pool:
        try:
            pool.connect(address)
        except OSError:
            return
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        begun = {"argv": argv, "environ": dict(os.environ), "folder": os.getcwd(), "nice": nice}
        socket.send_fds(pool, [b"."], [0, 1, 2])
        pool.sendall(json.dumps(begun).encode() + b"\n")
        ended = pool.recv(8)
    os._exit(int(ended or b"1"))


def _words() -> list[str]:
    """What this process is to run, if the pool can do that."""
    if os.environ.get("PYTHONPATH", "").split(os.pathsep)[-1] != os.path.dirname(__file__):
        return []
    at = next((at for at, word in enumerate(sys.orig_argv) if at and word[0] != "-"), 0)
    if sys.orig_argv[at].endswith("/workers/default_worker.py"):
        return sys.orig_argv[at:]
    if "RAYLENS_TEST_WARM" in os.environ and sys.orig_argv[at].startswith("raylens."):
        return sys.orig_argv[at - 1 :]
    return []


if _found := _words():
    _from_pool(os.environ["RAYLENS_TEST_POOL"], _found)

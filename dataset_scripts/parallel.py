"""Work in several processes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process


def each(function: Callable, jobs: list, num_proc: int, in_order: bool = True) -> Iterator:
    """`function(job)` for every job; an interruption or an error cancels what has not begun."""
    if num_proc < 2 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    context = get_context("spawn" if sys.platform == "win32" else "forkserver")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__package__ + ".samples"])  # the heavy imports, once for all processes
    executor = ProcessPoolExecutor(min(num_proc, len(jobs)), context, initializer=_follow_parent)
    try:
        if in_order:
            yield from executor.map(function, jobs, chunksize=max(1, min(32, len(jobs) // (8 * num_proc))))
        else:
            yield from (done.result() for done in as_completed([executor.submit(function, job) for job in jobs]))
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent():
    """An interruption is the parent's to handle, but a parent that was killed leaves nobody behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

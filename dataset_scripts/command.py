"""How every script ends: bad input is one line, and an interruption says how to go on."""

import os
import signal
import sys
from collections.abc import Callable

from .items import DataError


def run(main: Callable[[], None], interrupted: str = "; the same command goes on from here"):
    sys.stdout.reconfigure(errors="replace")  # of a terminal that can't show all letters
    for name in ("SIGTERM", "SIGHUP"):  # asked to end, or its terminal is closed: as Ctrl-C, so that all is tidied up
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, signal.default_int_handler)
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DataError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"interrupted{interrupted}", file=sys.stderr)
        sys.exit(130)

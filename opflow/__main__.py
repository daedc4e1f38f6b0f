"""The front door: ``opflow`` in a shell, and ``python -m opflow``.

Options are read before anything heavy is imported.  Ctrl-C ends in one line at any moment, and a
reader that goes away (``opflow … | head``) in none.
"""

import os
import signal
import sys
from collections.abc import Sequence


def _stop(number: int, frame: object) -> None:
    # Not an exception: half of an import may take it for something else.
    os.write(2, f"opflow: error: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    watched = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in watched:
            signal.signal(number, _stop)
        from opflow.options import parse
        from opflow.world import launched

        if not launched():  # of several ranks, the first alone says what is wrong
            parse(sys.argv[1:] if argv is None else argv)
        from opflow import cli

        for number in watched:
            signal.signal(number, before[number])
        code = cli.main(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("opflow: error: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Python flushes what is left at its end, and would complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return 128 + signal.SIGPIPE
    finally:
        for number in watched:
            signal.signal(number, _stop if argv is None else before[number])


if __name__ == "__main__":
    sys.exit(main())

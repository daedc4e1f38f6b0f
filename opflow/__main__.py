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
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, _stop)
        from opflow.cli.launched import launched
        from opflow.cli.options import parse

        args = None
        if not launched():  # of several ranks, the first alone says what is wrong
            try:
                args = parse(argv)
            finally:  # help is shown, and the reader may be gone
                sys.stdout.flush()
        from opflow.cli import commands

        for number, handler in before.items():
            signal.signal(number, handler)
        code = commands.main(argv, args)
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
        for number, handler in before.items():
            signal.signal(number, _stop if argv is None else handler)


if __name__ == "__main__":
    sys.exit(main())

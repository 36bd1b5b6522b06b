"""Command-line programs: each a thin main over the package."""

import signal
import sys

# While `python -m` looks for a program and imports what it needs, for seconds, nothing is there to be tidied up: Ctrl-C
# ends it at once, without a traceback. `cli.run` takes over.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

"""`python -m bcaudio` is the command `bcaudio`."""

import sys

from bcaudio.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m ctrl_jax` is the console script `ctrl-jax`."""

import sys

from ctrl_jax.commands.__main__ import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m strong_envs``: the command line, also installed as ``strong-envs``."""

import sys

from strong_envs.benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())

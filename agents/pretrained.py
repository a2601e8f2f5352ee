"""``python -m agents.pretrained``: trains the system that `agents.pretrained` loads; see `agents.pretraining`.

A command and nothing more: imported as a module it would hide the function of that name.
"""

import sys

from agents.pretraining import main

if __name__ == "__main__":
    sys.exit(main())

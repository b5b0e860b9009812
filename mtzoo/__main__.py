"""``python -m mtzoo``: the command line where its script is not on the path."""

import sys

from mtzoo.cli import main

sys.exit(main())

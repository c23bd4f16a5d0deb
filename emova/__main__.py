"""``python -m emova`` is the command line."""

from __future__ import annotations

import sys

from emova.cli.main import main

sys.exit(main())

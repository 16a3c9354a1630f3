"""``python -m medprov_sdk`` is ``medprov``."""

import sys

from medprov_sdk.cli import main

sys.exit(main())

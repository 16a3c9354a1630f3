"""``python -m medprov_ledger`` is ``medprov-ledger``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The consortium's side of medprov: federated rounds, screening of updates, robust aggregation, anchoring of rounds."""

import os

# Flower reads these when it is imported; it calls out to the internet unless it is told not to.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

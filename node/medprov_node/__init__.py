"""The hospital's side of medprov: marks pictures, restores their covers, trains on its own."""

"""The ledger: chain client, contracts, sealed evidence, batches and stores."""

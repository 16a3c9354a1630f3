#!/bin/sh
# Run by the Kubo image before the daemon starts: its own defaults are 0.0.0.0 and the verifier's port.
set -e
ipfs config Addresses.API /ip4/127.0.0.1/tcp/5001
ipfs config Addresses.Gateway /ip4/127.0.0.1/tcp/8081

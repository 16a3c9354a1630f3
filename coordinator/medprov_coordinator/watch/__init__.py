"""Watching a run from outside: terminal, web page, Prometheus. Reads the run's folder and changes nothing."""

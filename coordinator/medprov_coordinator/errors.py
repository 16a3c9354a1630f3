"""What can go wrong in this package. Every message is one line that names the reason and says what to do."""


class CoordinatorError(Exception):
    """Base of all errors of this package."""


class SettingsError(CoordinatorError):
    """A run configuration is incomplete or out of range."""


class QuorumError(CoordinatorError):
    """Too few hospitals are there."""


class RoundRefusedError(CoordinatorError):
    """Too many rounds in a row were refused."""


class CheckpointError(CoordinatorError):
    """A checkpoint is missing, damaged, of another run, or disagrees with the chain."""

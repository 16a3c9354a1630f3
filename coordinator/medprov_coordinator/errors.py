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


class PendingError(CoordinatorError):
    """Rounds are kept in the folder and wait for their anchor."""


class CertificateError(CoordinatorError):
    """A certificate or its key is missing, expired, of another authority or for other names."""


class SuperLinkError(CoordinatorError):
    """The SuperLink is not there, does not let this command in, or does not do what was asked."""


class EnrolmentError(CoordinatorError):
    """A hospital cannot be enrolled or revoked."""


class UnreleasedError(CoordinatorError):
    """The members have not released this installation's app bundle."""


class AuditError(CoordinatorError):
    """An audit log is absent, not as it was written, or cannot be written."""

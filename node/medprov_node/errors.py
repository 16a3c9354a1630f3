"""What can go wrong in marking and restoring. Every message is one line that names the file and says what to do."""


class NodeError(Exception):
    """Base of the errors of this package's commands."""


class MarkError(NodeError):
    """A picture cannot be marked."""


class MarkedBeforeError(MarkError):
    """A picture carries a mark already; the message says whose."""


class RegionError(MarkError):
    """A picture's region of interest is refused, or leaves no room for the mark; other pictures are not concerned."""


class OutputError(NodeError):
    """An output cannot be written: it exists, its folder is missing or closed, or its suffix is lossy."""


class NotAllowedError(NodeError):
    """The federation does not let this hospital mark, or not with these weights."""


class StateError(NodeError):
    """The hospital's state folder cannot be used."""


class KeyFileError(NodeError):
    """A reader's key cannot be read or stored."""


class RotationError(NodeError):
    """A hospital's key cannot be rotated now, or not by itself to the end."""


class UnknownBundleError(NodeError):
    """What was named leads to no bundle of this hospital."""


class ConfigFileError(NodeError):
    """The configuration file must be changed by hand."""


class DirectoryKeyError(NodeError):
    """A directory key that was sent cannot be taken."""


class JoinError(NodeError):
    """A site cannot take part in the training, and asking again will not help."""


class AwayError(NodeError):
    """The coordinator's SuperLink does not answer now."""


class BundleRefusedError(NodeError):
    """The coordinator wants an app bundle run that the federation has not released, or that is for other code."""

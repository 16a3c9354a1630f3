"""What can go wrong before there is a verdict. A missing chain, store or record is no error but a finding."""


class SdkError(Exception):
    """Base of all errors of this package; the message is one line that says what to do."""


class UnreadableError(SdkError):
    """The picture cannot be read."""

"""What can go wrong in this package. Every message is one line that names the file or figure and says what to do."""


class WatermarkError(Exception):
    """Base of all errors of this package."""


class MediaError(WatermarkError):
    """A file cannot be read or written as a picture."""


class UnknownFormatError(MediaError):
    """The content is of no format that is read here."""


class NoPixelsError(MediaError):
    """A DICOM object that is no image: a directory, a report, a presentation state."""


class EmbedError(WatermarkError):
    """A picture cannot be marked."""


class CapacityError(EmbedError):
    """The integrity mark does not fit.

    Parameters
    ----------
    message : str
    needed, available : int
        Bits.
    """

    def __init__(self, message: str, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class AlreadyMarkedError(EmbedError):
    """The picture carries a mark already."""


class RestoreError(WatermarkError):
    """The cover cannot be brought back."""


class WeightsError(WatermarkError):
    """A weights file is missing, damaged or of another format."""


class KeyFileError(WatermarkError):
    """A file with a consortium's key is missing, cannot be read, or holds no key."""

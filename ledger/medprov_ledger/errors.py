"""What can go wrong in this package. Every message is one line that names the file or address and says what to do."""


class LedgerError(Exception):
    """Base of all errors of this package."""


class ConfigError(LedgerError):
    """A configuration file is missing, unreadable or incomplete."""


class ChainError(LedgerError):
    """The chain does not answer or does not do what was asked."""


class WrongChainError(ChainError):
    """The node serves another chain than the configuration names."""


class ContractAbsentError(ChainError):
    """No contract of ours at the configured address."""


class RevertedError(ChainError):
    """A contract refused a transaction.

    Parameters
    ----------
    message : str
    error : str
        Name of the contract's custom error, or an empty string.
    """

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class StoreError(LedgerError):
    """A block store or IPFS daemon does not answer, or gives other bytes than the CID names."""


class SealError(LedgerError):
    """Something sealed cannot be opened with this key."""


class RecordError(LedgerError):
    """A record, proof or manifest is malformed or does not match its anchor."""

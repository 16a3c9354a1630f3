"""What can go wrong in this package. Every message is one line that names the file or address and says what to do."""


class LedgerError(Exception):
    """Base of all errors of this package."""


class ConfigError(LedgerError):
    """A configuration file is missing, unreadable or incomplete."""


class ChainError(LedgerError):
    """The chain does not answer or does not do what was asked."""


class ChainAwayError(ChainError):
    """The chain's node does not answer, not in time, or not now; asking again later may help."""


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


class SyncingError(ChainAwayError):
    """The chain's node is still catching up: what it says is of the past."""


class NoFundsError(ChainError):
    """The account cannot pay for its transaction."""


class FeeLimitError(ChainError):
    """The chain asks for more than the configured ceiling."""


class NonceTakenError(ChainError):
    """Another transaction of the account stands in the place of this one, which can never be mined now."""


class SignerError(LedgerError):
    """A remote signer does not sign what it was asked to."""


class SignerAwayError(SignerError):
    """The remote signer does not answer, or not in time; asking again later may help."""


class SignerRefusedError(SignerError):
    """The remote signer says no, or does not know the method or the account."""


class WrongSignerError(SignerError):
    """The remote signer has signed with the key of another account."""


class TamperedError(SignerError):
    """The remote signer has signed something else than it was asked to."""


class StoreError(LedgerError):
    """A block store or IPFS daemon does not answer, or gives other bytes than the CID names."""


class UnreachableError(StoreError):
    """The store as a whole is not there; what was asked for may well be in it."""


class ObjectError(StoreError):
    """What the CID names is no object of this format, whoever gives it: fetching it again cannot help."""


class SealError(LedgerError):
    """Something sealed cannot be opened with this key."""


class RecordError(LedgerError):
    """A record, proof or manifest is malformed or does not match its anchor."""


class ModelError(LedgerError):
    """A model version is not released, not there, or not what its hash says."""


class TitleError(LedgerError):
    """A record is not there, or what was asked does not fit what has become of it."""


class ChildError(LedgerError):
    """A program that a command runs beside itself cannot be started, or another command holds its folder."""


class StandardOutputError(LedgerError):
    """What a command has to say cannot be written to its standard output."""

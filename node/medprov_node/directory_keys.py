"""The federation's directory key from one epoch to the next: drawn by one member, taken by the others.

To be done whenever a member has left. The configuration then has the new key for writing and the former ones for
reading.
"""

from __future__ import annotations

from pathlib import Path

from medprov_ledger import directory_key, eip712, sealing
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.directory_key import DirectoryKey
from medprov_ledger.errors import RecordError, SealError
from medprov_ledger.federation import Federation
from medprov_ledger.keys import load_reader_key, load_signer
from medprov_node import config_file
from medprov_node.errors import DirectoryKeyError, OutputError


def draw(file: Path, hospital: HospitalConfig, config: Config, chain: Chain | None = None) -> DirectoryKey:
    """Draw a new key, write it wrapped for every active member into a file, and take it into the own configuration.

    Parameters
    ----------
    file : Path
        Not there yet. Where the configuration cannot be changed after it was written, :func:`take` goes on from it.
    hospital : HospitalConfig
        A member.
    config : Config
        Its file is changed: `key` and `former` of `[directory]`.
    chain : Chain or None
        None connects to what `config` names.

    Raises
    ------
    DirectoryKeyError
        The hospital is no member, or a member's reader key is unusable.
    OutputError, ConfigFileError, ChainError, ConfigError
    """
    federation = Federation(chain or Chain.connect(config))
    signer = load_signer(hospital)
    if not federation.is_member(signer.address):
        raise DirectoryKeyError(f"{hospital.name} ({signer.address}): is no active member; only members draw keys")
    key, readers = sealing.new_key(), [member.reader_key for member in federation.members()]
    try:
        made = directory_key.seal(key, config.federation_id, readers, _domain(config), signer)
    except SealError as error:
        raise DirectoryKeyError(
            f"{federation.address}: a member has registered a key that cannot be used ({error}); it must register "
            "another one"
        ) from None
    try:
        with file.open("xb") as stream:
            stream.write(made.to_bytes())
    except FileExistsError:
        raise OutputError(f"{file}: the file exists already; name another one for the new key") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{file}: cannot be written ({why})") from None
    _put(config, key)
    return made


def take(file: Path, hospital: HospitalConfig, config: Config, chain: Chain | None = None) -> DirectoryKey:
    """Take the key that another member has drawn; twice is once.

    Parameters
    ----------
    file : Path
    hospital : HospitalConfig
    config : Config
        Its file is changed: `key` and `former` of `[directory]`.
    chain : Chain or None

    Raises
    ------
    DirectoryKeyError
        Not signed by an active member, made before a member left, of another federation, or of a former epoch.
    RecordError, SealError, ConfigFileError, ChainError, ConfigError
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(directory_key.MAX_SIZE + 1)
        sealed = DirectoryKey.from_bytes(data)
    except OSError as error:
        raise DirectoryKeyError(f"{file}: cannot be read ({error.strerror}); name the file that was sent") from None
    except RecordError as error:
        raise DirectoryKeyError(f"{file}: {error}") from None
    if sealed.federation_id != config.federation_id:
        raise DirectoryKeyError(f"{file}: is for another federation (0x{sealed.federation_id.hex()})")
    federation = Federation(chain or Chain.connect(config))
    try:
        signer = sealed.signer(_domain(config))
    except RecordError as error:
        raise DirectoryKeyError(f"{file}: {error}") from None
    if not federation.is_member(signer):
        raise DirectoryKeyError(f"{file}: signed by {signer} or changed since, and {signer} is no active member")
    members = {sealing.fingerprint(member.reader_key) for member in federation.members()}
    if strangers := sorted(set(sealed.keys) - members):
        raise DirectoryKeyError(
            f"{file}: is also for {', '.join(strangers)}, no active member's reader key; it was made before that "
            "member left or changed its key: ask for a new one"
        )
    try:
        key = directory_key.open(sealed, load_reader_key(hospital))
    except SealError as error:
        raise DirectoryKeyError(f"{file}: {error}") from None
    if key in config.former_directory_keys:
        raise DirectoryKeyError(f"{file}: holds the key of a former epoch; ask for the present one")
    if key != config.directory_key:
        _put(config, key)
    return sealed


def _put(config: Config, key: bytes) -> None:
    values: dict[str, config_file.Value] = {"key": f"0x{key.hex()}"}
    if config.directory_keys:
        values["former"] = [f"0x{one.hex()}" for one in config.directory_keys]
    config_file.change(config.path, ("directory",), values, secret=True)


def _domain(config: Config) -> eip712.Domain:
    return eip712.domain(config.chain_id, config.registry_address)

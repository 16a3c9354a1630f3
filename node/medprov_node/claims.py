"""Who marked a picture: what its marks and the ledger say together."""

from __future__ import annotations

from medprov_ledger import eip712, sealing
from medprov_ledger.config import Config
from medprov_ledger.errors import RecordError
from medprov_ledger.index import Entry, RecordIndex
from medprov_node.connect import Ledger
from medprov_watermark.pixels import Samples
from medprov_watermark.watermarker import DualWatermarker, Integrity


def marked_by(image: Samples, watermarker: DualWatermarker, ledger: Ledger, config: Config) -> str:
    """Say in a few words whose mark a picture carries.

    The anchored record decides. Without one the signature in the integrity mark is named, which proves who signed, but
    not when.

    Parameters
    ----------
    image : uint8 or uint16 array
    watermarker : DualWatermarker
    ledger : Ledger
    config : Config

    Raises
    ------
    ChainError
    """
    found = watermarker.extract(image, search=False)
    payload = found.integrity.payload or found.payload
    if payload is not None:
        entries = _records(sealing.payload_keys(payload.data, config.federation_id).record_key, ledger, config)
        if entries:
            first = entries[0]
            return (
                f"by {name_of(first.record.owner, config)}, record 0x{first.leaf.hex()} in block {first.anchor.block}"
            )
    signer = _signer(found.integrity, ledger)
    if signer is not None:
        standing = "a member" if ledger.federation.is_member(signer) else "no member of this federation"
        return f"and signed by {name_of(signer, config)}, {standing}; no record of it is anchored"
    return "by somebody unknown (no signature that can be read and no anchored record)"


def name_of(address: str, config: Config) -> str:
    """An address with the hospital's name, where the configuration knows it."""
    names = {hospital.address.lower(): hospital.name for hospital in config.hospitals.values()}
    name = names.get(address.lower())
    return f"{name} ({address})" if name else address


def _records(record_key: bytes, ledger: Ledger, config: Config) -> list[Entry]:
    index = RecordIndex(":memory:", ledger.domain)
    try:
        index.sync(ledger.registry, ledger.federation, ledger.store, *config.directory_keys)
        return index.by_key(record_key)
    finally:
        index.close()


def _signer(integrity: Integrity, ledger: Ledger) -> str | None:
    if integrity.image_mark is None or integrity.signature is None:
        return None
    try:
        return eip712.recover_image_mark(integrity.image_mark, integrity.signature, ledger.domain)
    except RecordError:
        return None

"""The verifier: read, extract, look up, compare, decide."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medprov_ledger import eip712
from medprov_ledger.config import Config
from medprov_ledger.errors import RecordError, StoreError
from medprov_ledger.sealing import PayloadKeys, payload_keys
from medprov_sdk import content, metadata
from medprov_sdk.errors import UnreadableError
from medprov_sdk.ledger_view import MOST_PROVED, Found, LedgerView, describe
from medprov_sdk.metadata import Metadata
from medprov_sdk.standing import still_standing
from medprov_sdk.verdict import Content, Findings, Ledger, Mark, Seal, Signer, decide
from medprov_sdk.verification import Check, FalseAlarm, Verification
from medprov_watermark import detection, media
from medprov_watermark.errors import MediaError
from medprov_watermark.geometry import Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.key_file import read_key
from medprov_watermark.payload import Decoded, Directory, Payload, find_in
from medprov_watermark.pixels import Pixels, Samples

if TYPE_CHECKING:
    from medprov_watermark.watermarker import DualWatermarker, Extraction, Integrity

UPRIGHT = Geometry()
HOPELESS = 0.01
"""Pilots of which more than so many were to be expected by chance leave soft bits that no directory helps to read."""
MOST_COMPARED = 4
"""Records of one payload whose evidence is compared; an owner that anchors more under one payload gains nothing."""


class Watermarker(Protocol):
    """What is needed of :class:`medprov_watermark.watermarker.DualWatermarker`."""

    def extract(self, image: Samples, search: bool = True) -> Extraction:
        """Both marks of a picture; W1 at any angle and in windows only where `search` says so."""

    def integrity(self, image: Samples) -> Integrity:
        """W2 alone."""


@dataclass
class _Work:
    """What is known so far of one picture."""

    image: Samples
    pixels: Pixels | None
    """With the file that it came from; None for bare samples."""
    checks: list[Check] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    @cached_property
    def attributes(self) -> dict[str, str]:
        """What the file says beside its samples; empty for bare samples."""
        return media.attributes(self.pixels) if self.pixels is not None else {}

    def check(self, name: str, passed: bool | None, detail: str) -> None:
        self.checks.append(Check(name, passed, detail))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + round((time.perf_counter() - start) * 1000, 2)


@dataclass(frozen=True)
class _Read:
    """What the picture says about itself."""

    extraction: Extraction
    seal: Seal
    integrity: Integrity
    stands: Geometry
    """How the picture stands to the one that the seal and the evidence are about."""
    payload: Payload | None
    released_hash: bytes
    """Content hash of the picture in the orientation in which its seal was found."""
    listed: Decoded | None = None
    """What list decoding read in place of the error correction."""

    @property
    def corrected(self) -> int:
        """Codeword bits that were wrong."""
        return self.listed.corrected_bits if self.listed else self.extraction.corrected

    @property
    def chance(self) -> float:
        """Bound on how often a picture without a mark would seem to have one as clear as this."""
        if self.listed is not None and not self.extraction.present:
            return self.listed.chance
        # pilots that fall short by themselves were believed together with the codeword, by the same bound
        return min(self.extraction.false_alarm, detection.FALSE_ALARM)


class Verifier:
    """Verifies pictures against one federation's ledger; reuse it for many pictures.

    Parameters
    ----------
    watermarker : Watermarker
    ledger : LedgerView
    """

    def __init__(self, watermarker: Watermarker, ledger: LedgerView) -> None:
        self.watermarker, self.ledger = watermarker, ledger
        self._directory = Directory.of([])

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        cache: Path | str | None = None,
        key_file: str | os.PathLike[str] | None = None,
    ) -> Verifier:
        """A verifier for the federation that a configuration file names.

        Parameters
        ----------
        path : path or None
            None searches as :meth:`medprov_ledger.config.Config.load` does.
        cache : path or None
            File of the record index; None takes the user's cache folder, ``":memory:"`` keeps nothing.
        key_file : path or None
            File of the consortium's key; None takes the one that the configuration names, if it does.

        Raises
        ------
        ConfigError
        KeyFileError
        WeightsError
        """
        config = Config.load(path)
        secret = key_file if key_file is not None else config.key_file
        key = read_key(secret) if secret is not None else None
        from medprov_watermark.watermarker import DualWatermarker as Loaded

        watermarker: DualWatermarker = Loaded.load(key=key)
        return cls(watermarker, LedgerView(config, cache))

    def verify(self, image: str | os.PathLike[str] | Pixels | Samples, *, source: str | None = None) -> Verification:
        """Verify one picture.

        Parameters
        ----------
        image : path, Pixels, or uint8 or uint16 array (H, W) or (H, W, 3)
        source : str or None
            Name of the picture in the result; None takes the file's name.

        Raises
        ------
        UnreadableError
            The file or array is not a picture.
        WrongChainError, ContractAbsentError
            The configuration is of another chain or federation. All else becomes part of the verdict.
        """
        stages: dict[str, float] = {}
        start = time.perf_counter()
        samples, bits, name, pixels = _given(image)
        stages["read"] = round((time.perf_counter() - start) * 1000, 2)
        work = _Work(samples, pixels, stages=stages)
        read, keys, found = self._look_up(work, self._read(work))
        signer, address = self._signer(work, read, found)
        found = _of_the_signer(work, read, found, address)
        with work.stage("chain"):
            standing, revoked = still_standing(self.ledger, found, read.released_hash, work.check)
        if revoked is None:
            ledger, chosen = self._ledger(work, read, standing, address)
        else:
            ledger, chosen = Ledger.REVOKED, revoked
        compared, header = content.Compared(), Metadata()
        if ledger is Ledger.CONFIRMED and chosen is not None:
            if keys is None:
                header = metadata.unavailable("the evidence opens with the mark's payload, which could not be read")
            else:
                with work.stage("evidence"):
                    if _proved(read, signer, chosen):
                        opened = self._open(chosen, keys) if work.attributes else None
                    else:
                        chosen, opened, compared = self._compare(work, read, keys, standing)
                    header = _header(work.attributes, opened, keys)
                work.checks.extend(compared.checks)
        if chosen is not None:
            work.checks.append(describe(chosen, self.ledger.domain))
        elif self.ledger.chain_trouble and (keys is not None or read.seal in (Seal.INTACT, Seal.TURNED)):
            self._remember(work, read, keys)
        findings = Findings(
            seal=read.seal,
            mark=_mark(read),
            signer=signer,
            ledger=ledger,
            same_pixels=chosen is not None and chosen.record.released_hash == read.released_hash,
            blocks=compared.blocks,
            content=compared.content,
        )
        verdict, reason = decide(findings)
        stages["total"] = round((time.perf_counter() - start) * 1000, 2)
        return Verification(
            verdict=verdict,
            reason=reason,
            metadata=header,
            source=source if source is not None else name,
            height=samples.shape[0],
            width=samples.shape[1],
            channels=1 if samples.ndim == 2 else 3,
            bits=bits,
            content_hash="0x" + content_hash(samples).hex(),
            payload=read.payload.data.hex() if read.payload else None,
            corrected_bits=read.corrected,
            presence=round(float(read.extraction.presence), 2),
            geometry=str(read.stands),
            seal=read.seal.value,
            signer=address,
            record=chosen.claim if chosen else None,
            claims=tuple(one.claim for one in found),
            model=_model(read, chosen),
            checks=tuple(work.checks),
            proved_offline=tuple(work.offline),
            heat=compared.heat,
            false_alarm=FalseAlarm(read.chance, detection.MEASURED_FALSE_ALARM),
            milliseconds=stages,
        )

    def _read(self, work: _Work) -> _Read:
        """Both marks; the seal also in the orientation that the pilots found.

        Other angles and windows are searched where nothing else tells of a mark. No seal survives these.
        """
        with work.stage("extract"):
            extraction = self.watermarker.extract(work.image, search=False)
        if not extraction.present and extraction.integrity.state != Seal.INTACT.value:
            with work.stage("search"):
                extraction = self.watermarker.extract(work.image)
        integrity, seal, stands = extraction.integrity, Seal(extraction.integrity.state), UPRIGHT
        if seal is not Seal.INTACT and extraction.present:
            stands = extraction.geometry
        if not stands.identity and stands.warp is None:
            with work.stage("extract"):
                turned = self.watermarker.integrity(stands.undo(work.image))
            if turned.state == "intact":
                integrity, seal = turned, Seal.TURNED
        sealed = seal in (Seal.INTACT, Seal.TURNED)
        with work.stage("hash"):
            released_hash = content_hash(stands.undo(work.image) if seal is Seal.TURNED else work.image)
        # a broken seal's payload is only a hint where to look; the comparison of the content decides
        payload = integrity.payload if sealed else extraction.payload or integrity.payload
        work.check(
            "ownership mark",
            extraction.present or None,
            f"pilot score {extraction.presence:.1f} (chance {extraction.false_alarm:.1e}), {stands}, "
            + (f"{extraction.corrected} of 128 bits corrected" if extraction.payload else "payload not read"),
        )
        if sealed:
            turn = ", once the picture is turned back" if seal is Seal.TURNED else ""
            work.check("integrity mark", True, "every sample is as it was sealed" + turn)
            work.offline.append("no sample has changed since the integrity mark was put in")
        else:
            passed = False if seal is Seal.BROKEN else None
            work.check("integrity mark", passed, integrity.reason or "no integrity mark")
        if sealed and extraction.payload is not None:
            same = extraction.payload == integrity.payload
            detail = "both marks carry the same payload" if same else "the two marks carry different payloads"
            work.check("marks belong together", same, detail)
        return _Read(extraction, seal, integrity, stands, payload, released_hash)

    def _look_up(self, work: _Work, read: _Read) -> tuple[_Read, PayloadKeys | None, list[Found]]:
        """The records of a picture: by its payload and hash, and where these name none, by list decoding."""
        with work.stage("chain"):
            self.ledger.refresh()
        keys, found = self._ask(work, read)
        sealed = read.seal in (Seal.INTACT, Seal.TURNED)
        marked = read.extraction.present or read.extraction.false_alarm <= HOPELESS
        if marked and not sealed and (read.payload is None or not found):
            # of a half destroyed mark the error correction may have read a payload that nobody ever wrote
            listed = self._search(work, read)
            if listed is not None and listed.payload != read.payload:
                stands = read.extraction.geometry
                read = replace(read, payload=listed.payload, listed=listed, stands=stands)
                keys, found = self._ask(work, read)
        if self.ledger.left_out:
            detail = f"{self.ledger.left_out} left out: no more than {MOST_PROVED} of one owner are proved"
            work.check("all records looked at", None, detail + ", those of exactly this picture first")
        return read, keys, found

    def _ask(self, work: _Work, read: _Read) -> tuple[PayloadKeys | None, list[Found]]:
        keys = None
        if read.payload is not None:
            with work.stage("keys"):
                keys = payload_keys(read.payload.data, self.ledger.config.federation_id)
        with work.stage("chain"):
            return keys, self.ledger.find(keys.record_key if keys else None, read.released_hash)

    def _search(self, work: _Work, read: _Read) -> Decoded | None:
        """List decoding against the directory, also of soft bits whose pilots fall short of proving a mark.

        Of all orientations, angles and windows one set of soft bits comes here. The pilots chose it, or the error
        correction, and neither knows the directory; so however many were searched, it counts as one try, and a payload
        that is not in the picture is named with a probability of at most payload.LIST_FALSE_MATCH, 1e-9.
        """
        with work.stage("list"):
            known = self._known()
            found = find_in(read.extraction.soft_bits, known, read.extraction.false_alarm)
        count = len(known.payloads)
        if found is None:
            work.check("list decoding", None, f"none of {count} known payloads answers")
            return None
        work.check("list decoding", True, f"one of {count} known payloads, {found.corrected_bits} bits corrected")
        return found

    def _known(self) -> Directory:
        """The directory with its codewords, encoded anew only where it has changed."""
        payloads = tuple(Payload.from_data(data) for data in self.ledger.payloads())
        if payloads != self._directory.payloads:
            self._directory = Directory.of(payloads)
        return self._directory

    def _signer(self, work: _Work, read: _Read, found: list[Found]) -> tuple[Signer, str | None]:
        """Who signed the seal, and whether that is a member (at the anchor's block, where there is a record)."""
        mark, signature = read.integrity.image_mark, read.integrity.signature
        if read.seal not in (Seal.INTACT, Seal.TURNED) or mark is None or signature is None:
            return Signer.NONE, None
        try:
            address = eip712.recover_image_mark(mark, signature, self.ledger.domain)
        except RecordError as error:
            work.check("signature", False, str(error))
            return Signer.FOREIGN, None
        work.offline.append(f"the integrity mark is signed by {address} for chain {self.ledger.domain.chain_id}")
        if any(one.record.owner == address for one in found):
            # find() has asked for the owner's membership at the anchor's block
            work.check("signature", True, f"by {address}, a member at the anchor's block")
            return Signer.MEMBER, address
        member = self.ledger.is_member(address)
        if member is None:
            work.check("signature", None, f"by {address}; the members could not be asked")
            return Signer.UNCHECKED, address
        work.check("signature", member, f"by {address}, {'a member now' if member else 'not a member'}")
        return (Signer.MEMBER if member else Signer.FOREIGN), address

    def _ledger(self, work: _Work, read: _Read, found: list[Found], signer: str | None) -> tuple[Ledger, Found | None]:
        """What chain and index say, and the record that they say it of."""
        owners = {one.record.owner for one in found}
        if len(owners) > 1:
            first = f"the earliest anchor is of {found[0].record.owner} in block {found[0].claim.block}"
            work.check("one owner", False, f"{len(owners)} owners claim this picture; {first}")
            return Ledger.CONFLICT, found[0]
        same = [one for one in found if one.record.released_hash == read.released_hash]
        if found:
            chosen = (same or found)[0]
            mark = read.integrity.image_mark
            if signer is not None and signer != chosen.record.owner and self.ledger.is_member(signer):
                work.check("signer is the owner", False, f"signed by {signer}, recorded by {chosen.record.owner}")
                return Ledger.MISMATCH, chosen
            if same and mark is not None and not _agrees(chosen, mark.marked_hash, mark.cover_hash, mark.model):
                work.check("record and seal agree", False, "the record's hashes are not those of the integrity mark")
                return Ledger.MISMATCH, chosen
            return Ledger.CONFIRMED, chosen
        if self.ledger.chain_trouble:
            work.check("chain asked", None, self.ledger.chain_trouble)
            return Ledger.CHAIN_AWAY, None
        if self.ledger.store_trouble:
            work.check("manifests fetched", None, self.ledger.store_trouble)
            return Ledger.STORE_AWAY, None
        work.check("record found", False if read.payload else None, "no confirmed record of this payload or picture")
        return Ledger.NONE, None

    def _compare(
        self, work: _Work, read: _Read, keys: PayloadKeys, found: list[Found]
    ) -> tuple[Found, content.Opened, content.Compared]:
        """Compare with the evidence of every record of this payload; the best counts."""
        ours = [one for one in found if one.record.key == keys.record_key] or found[:1]
        opened = [(one, self._open(one, keys)) for one in ours[:MOST_COMPARED]]
        results = [(one, at, content.compare(at, work.image, read.stands)) for one, at in opened]
        return min(results, key=lambda result: result[2].differing)

    def _open(self, found: Found, keys: PayloadKeys) -> content.Opened:
        try:
            return content.fetch(found.record, keys, self.ledger.store)
        except StoreError as error:
            return content.unreachable(error)

    def _remember(self, work: _Work, read: _Read, keys: PayloadKeys | None) -> None:
        for record in self.ledger.remembered(keys.record_key if keys else None, read.released_hash):
            same = "of exactly these pixels" if record.released_hash == read.released_hash else "of this payload"
            work.offline.append(f"an earlier run saw a record {same} by {record.owner}; it could not be confirmed now")


def _given(image: str | os.PathLike[str] | Pixels | Samples) -> tuple[Samples, int, str, Pixels | None]:
    """Samples, bits stored and name of what was given, and the picture with its file where there is one."""
    if isinstance(image, Pixels):
        return image.array, image.bits, "pixels", image
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype not in (np.uint8, np.uint16) or not fits or image.size == 0:
            raise UnreadableError(
                f"array of shape {image.shape} and type {image.dtype}: give (H, W) or (H, W, 3) of uint8 or uint16"
            )
        return np.ascontiguousarray(image), image.dtype.itemsize * 8, "array", None
    try:
        pixels = media.read(image)
    except MediaError as error:
        raise UnreadableError(str(error)) from None
    return pixels.array, pixels.bits, Path(image).name, pixels


def _mark(read: _Read) -> Mark:
    if read.payload is not None:
        return Mark.READ
    return Mark.UNREADABLE if read.extraction.present else Mark.ABSENT


def _proved(read: _Read, signer: Signer, chosen: Found | None) -> bool:
    """Whether seal and record settle it, so that the evidence need not be fetched."""
    return (
        chosen is not None
        and read.seal in (Seal.INTACT, Seal.TURNED)
        and signer in (Signer.MEMBER, Signer.NONE)
        and chosen.record.released_hash == read.released_hash
    )


def _of_the_signer(work: _Work, read: _Read, found: list[Found], signer: str | None) -> list[Found]:
    """The records that count beside a seal whose signer has recorded these very pixels.

    Seal, record and anchor must be of one member. Whoever copies a public record and anchors it cannot make the seal,
    so another owner's record of these pixels does not count, and neither does a later one of the same payload. An
    earlier one of the payload does: there the seal may be the thief's.
    """
    own = [one for one in found if one.record.owner == signer and one.record.released_hash == read.released_hash]
    if not own:
        return found
    first, kept = own[0].claim, []
    for one in found:
        copied = one.record.released_hash == read.released_hash or one.claim.block > first.block
        if one.record.owner == signer or not copied:
            kept.append(one)
        else:
            detail = f"{one.record.owner} recorded this picture in block {one.claim.block}, but {signer} has sealed it"
            work.check("another's record", None, f"does not count: {detail}")
    return kept


def _header(attributes: Mapping[str, str], opened: content.Opened | None, keys: PayloadKeys) -> Metadata:
    """The file's attributes against the evidence."""
    if not attributes:
        return metadata.unavailable("what was given is no file of a kind that is released")
    if opened is None or opened.evidence is None:
        how = "fetched" if opened is None or opened.trouble is Content.UNREACHABLE else "opened"
        return metadata.unavailable(f"the evidence of the record could not be {how}")
    return metadata.compare(opened.evidence, keys, attributes)


def _agrees(found: Found, marked_hash: bytes, cover_hash: bytes, model: bytes) -> bool:
    record = found.record
    # the short form of the seal holds no cover hash
    cover = not any(cover_hash) or record.cover_hash == cover_hash
    return record.marked_hash == marked_hash and cover and record.model == model


def _model(read: _Read, chosen: Found | None) -> str | None:
    if chosen is not None:
        return "0x" + chosen.record.model.hex()
    mark = read.integrity.image_mark
    return "0x" + mark.model.hex() if mark is not None else None

"""The verifier: read, extract, look up, compare, decide."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import proof_file
from medprov_ledger.config import Config
from medprov_ledger.errors import LedgerError, StoreError
from medprov_ledger.sealing import PayloadKeys, payload_keys
from medprov_sdk import claims, content, metadata
from medprov_sdk.ledger_view import MOST_PROVED, LedgerView
from medprov_sdk.metadata import Metadata
from medprov_sdk.offline import Home, ProofView, Trust
from medprov_sdk.reading import Read, Watermarker, Work, given, mark_of, read_marks
from medprov_sdk.verdict import Basis, Content, Findings, Ledger, Seal, decide
from medprov_sdk.verification import FalseAlarm, Verification
from medprov_sdk.view import Found, View
from medprov_watermark import detection
from medprov_watermark.errors import WatermarkError
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.key_file import read_key
from medprov_watermark.payload import Decoded, Directory, Payload, find_in
from medprov_watermark.pixels import Pixels, Samples

if TYPE_CHECKING:
    from medprov_watermark.watermarker import DualWatermarker

HOPELESS = 0.01
"""Pilots of which more than so many were to be expected by chance say nothing of where the mark lies."""
MOST_VERSIONS = 4
"""Model versions beside the loaded one that a picture without a readable mark is read with, the newest first: each
takes a whole search."""
MOST_COMPARED = 4
"""Records of one payload whose evidence is compared; an owner that anchors more under one payload gains nothing."""


class Verifier:
    """Verifies pictures against one federation's ledger; reuse it for many pictures.

    Parameters
    ----------
    watermarker : Watermarker
    ledger : View
    load : callable or None
        Loads another model from its weights file, with the same key; None: only the given one is known.
    """

    def __init__(
        self, watermarker: Watermarker, ledger: View, load: Callable[[Path], Watermarker] | None = None
    ) -> None:
        self.watermarker, self.ledger, self._load = watermarker, ledger, load
        self._others: dict[bytes, Watermarker] = {}
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
        return cls(watermarker, LedgerView(config, cache), lambda file: Loaded.load(file, key=key))

    @classmethod
    def from_proof(
        cls,
        file: str | os.PathLike[str],
        home: Home,
        trusted: Trust | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
    ) -> Verifier:
        """A verifier that knows one proof file and asks nobody.

        Parameters
        ----------
        file : path
            From ``medprov export``.
        home : Home
            The federation that the caller means.
        trusted : Trust or None
            What confirms the file's anchor (:func:`medprov_sdk.offline.trust`); with None no verdict is more than
            ``unverifiable``.
        key_file : path or None
            File of the consortium's key.

        Raises
        ------
        RecordError
            The file is damaged, or its parts do not belong together.
        SdkError
            It is of another federation, or contradicts what is trusted.
        KeyFileError
        WeightsError
        """
        place = Path(file)
        view = ProofView(proof_file.read(place), home, trusted or Trust(), str(place))
        key = read_key(key_file) if key_file is not None else None
        from medprov_watermark.watermarker import DualWatermarker as Loaded

        watermarker: DualWatermarker = Loaded.load(key=key)
        return cls(watermarker, view, lambda file: Loaded.load(file, key=key))

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
        samples, bits, name, pixels = given(image)
        stages["read"] = round((time.perf_counter() - start) * 1000, 2)
        work = Work(samples, pixels, stages=stages)
        read, keys, found = self._look_up(work, self._by_its_model(work, read_marks(self.watermarker, work)))
        if read.payload is None:
            read, keys, found = self._by_other_versions(work, read, found)
        signed = claims.signer(self.ledger, work, read, found)
        found = claims.of_the_signer(work, read, found, signed)
        with work.stage("chain"):
            standing, revoked = self.ledger.standing(found, read.released_hash, work.check)
        if revoked is None:
            ledger, chosen = claims.settle(self.ledger, work, read, standing, signed)
        else:
            ledger, chosen = Ledger.REVOKED, revoked
        compared, header = content.Compared(), Metadata()
        if ledger is Ledger.CONFIRMED and chosen is not None:
            if keys is None:
                header = metadata.unavailable("the evidence opens with the mark's payload, which could not be read")
            else:
                with work.stage("evidence"):
                    if claims.proved(read, signed.standing, chosen):
                        opened = self._open(chosen, keys) if work.attributes else None
                    else:
                        chosen, opened, compared = self._compare(work, read, keys, standing)
                    header = _header(work.attributes, opened, keys)
                work.checks.extend(compared.checks)
            if chosen.basis is Basis.FILE:
                header = metadata.unavailable("what was released, the proof file says on its own word")
        if chosen is not None:
            work.checks.append(self.ledger.describe(chosen))
        elif self.ledger.chain_trouble and (keys is not None or read.seal in (Seal.INTACT, Seal.TURNED)):
            self._remember(work, read, keys)
        findings = Findings(
            seal=read.seal,
            mark=mark_of(read),
            signer=signed.standing,
            ledger=ledger,
            same_pixels=chosen is not None and chosen.record.released_hash == read.released_hash,
            blocks=compared.blocks,
            content=compared.content,
            basis=chosen.basis if chosen is not None else Basis.CHAIN,
        )
        verdict, reason = decide(findings)
        if_anchored, _ = decide(replace(findings, basis=Basis.CHAIN))
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
            signer=signed.address,
            record=chosen.claim if chosen else None,
            claims=tuple(one.claim for one in found),
            model=_model(read, chosen),
            checks=tuple(work.checks),
            proved_offline=tuple(work.offline),
            heat=compared.heat,
            false_alarm=FalseAlarm(read.chance, detection.MEASURED_FALSE_ALARM),
            milliseconds=stages,
            basis=chosen.basis if chosen else None,
            offline=self.ledger.conclude(chosen, if_anchored),
        )

    def _by_its_model(self, work: Work, read: Read) -> Read:
        """What another model than the loaded one has sealed, read with that model, where it can be had."""
        prefix = read.integrity.other_model
        if not prefix or self._load is None:
            return read
        with work.stage("model"):
            try:
                other = self._version(prefix)
            except (LedgerError, WatermarkError) as error:
                work.check("model of the mark", None, f"{error}; the signature in the mark is not checked")
                return read
            integrity = other.integrity(read.stands.undo(work.image))
        work.check("model of the mark", True, f"model {prefix.hex()}..., released by the federation")
        return replace(read, integrity=integrity)

    def _by_other_versions(
        self, work: Work, read: Read, found: list[Found]
    ) -> tuple[Read, PayloadKeys | None, list[Found]]:
        """A picture of which the loaded version reads nothing, with others: each has an extractor of its own."""
        released = [model for model in self.ledger.versions() if model != self.watermarker.model]
        tried = 0
        for model in released[:MOST_VERSIONS] if self._load is not None else ():
            try:
                with work.stage("model"):
                    other = self._version(model)
            except (LedgerError, WatermarkError) as error:
                work.check("other model version", None, f"{error}; the picture is not read with it")
                continue
            tried += 1
            aside = Work(work.image, work.pixels, stages=work.stages)
            seen, keys, records = self._look_up(aside, read_marks(other, aside), other)
            if seen.payload is not None:
                work.checks[:], work.offline[:] = aside.checks, aside.offline
                work.check("model of the mark", True, f"model {model.hex()[:16]}..., released by the federation")
                return replace(seen, versions=1 + tried), keys, records
        if tried:
            work.check("other model versions", None, f"{tried} that the federation released read nothing either")
        if len(released) > MOST_VERSIONS:
            work.check("other model versions", None, f"{len(released) - MOST_VERSIONS} older ones were not tried")
        return replace(read, versions=1 + tried), None, found

    def _version(self, model: bytes) -> Watermarker:
        """The version whose hash begins with `model`, loaded once however much of its hash is named."""
        if self._load is None:
            raise LedgerError(f"model {model.hex()}: this verifier knows one model only")
        for whole, known in self._others.items():
            if whole.startswith(model):
                return known
        loaded = self._load(self.ledger.model_file(model))
        return self._others.setdefault(loaded.model, loaded)

    def _look_up(
        self, work: Work, read: Read, version: Watermarker | None = None
    ) -> tuple[Read, PayloadKeys | None, list[Found]]:
        """The records of a picture: by its payload and hash, and where these name none, by list decoding."""
        with work.stage("chain"):
            self.ledger.refresh()
        keys, found = self._ask(work, read)
        sealed = read.seal in (Seal.INTACT, Seal.TURNED)
        if not sealed and (read.payload is None or not found):
            # of a half destroyed mark the error correction may have read a payload that nobody ever wrote
            listed, stands = self._search(work, read, version or self.watermarker)
            if listed is not None and listed.payload != read.payload:
                read = replace(read, payload=listed.payload, listed=listed, stands=stands)
                keys, found = self._ask(work, read)
        if self.ledger.left_out:
            detail = f"{self.ledger.left_out} left out: no more than {MOST_PROVED} of one owner are proved"
            work.check("all records looked at", None, detail + ", those of exactly this picture first")
        return read, keys, found

    def _ask(self, work: Work, read: Read) -> tuple[PayloadKeys | None, list[Found]]:
        keys = None
        if read.payload is not None:
            with work.stage("keys"):
                keys = payload_keys(read.payload.data, self.ledger.federation_id)
        with work.stage("chain"):
            return keys, self.ledger.find(keys.record_key if keys else None, read.released_hash)

    def _search(self, work: Work, read: Read, version: Watermarker) -> tuple[Decoded | None, Geometry]:
        """List decoding against the directory, also of soft bits whose pilots fall short of proving a mark.

        Of all orientations, angles and windows one set of soft bits comes here first. The pilots chose it, or the error
        correction, and neither knows the directory; so however many were searched, it counts as one try, and a payload
        that is not in the picture is named with a probability of at most payload.LIST_FALSE_MATCH, 1e-9. Where there
        are no pilots, who knows some covers and marked pictures may have taken them away: then the eight orientations
        are tried, which count as so many.
        """
        seen = read.extraction
        found, stands = None, seen.geometry
        with work.stage("list"):
            known = self._known()
            if seen.present or seen.false_alarm <= HOPELESS:
                found = find_in(seen.soft_bits, known, seen.false_alarm)
            if found is None and not seen.present and known.payloads:
                for one in version.each_way(work.image):
                    found = find_in(one.soft_bits, known, len(ALL))
                    if found is not None:
                        stands = one.geometry
                        break
        count = len(known.payloads)
        if found is None:
            work.check("list decoding", None, f"none of {count} known payloads answers")
        else:
            work.check("list decoding", True, f"one of {count} known payloads, {found.corrected_bits} bits corrected")
        return found, stands

    def _known(self) -> Directory:
        """The directory with its codewords, encoded anew only where it has changed."""
        payloads = tuple(Payload.from_data(data) for data in self.ledger.payloads())
        if payloads != self._directory.payloads:
            self._directory = Directory.of(payloads)
        return self._directory

    def _compare(
        self, work: Work, read: Read, keys: PayloadKeys, found: list[Found]
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

    def _remember(self, work: Work, read: Read, keys: PayloadKeys | None) -> None:
        for record in self.ledger.remembered(keys.record_key if keys else None, read.released_hash):
            same = "of exactly these pixels" if record.released_hash == read.released_hash else "of this payload"
            work.offline.append(f"an earlier run saw a record {same} by {record.owner}; it could not be confirmed now")


def _header(attributes: Mapping[str, str], opened: content.Opened | None, keys: PayloadKeys) -> Metadata:
    """The file's attributes against the evidence."""
    if not attributes:
        return metadata.unavailable("what was given is no file of a kind that is released")
    if opened is None or opened.evidence is None:
        how = "fetched" if opened is None or opened.trouble is Content.UNREACHABLE else "opened"
        return metadata.unavailable(f"the evidence of the record could not be {how}")
    return metadata.compare(opened.evidence, keys, attributes)


def _model(read: Read, chosen: Found | None) -> str | None:
    if chosen is not None:
        return "0x" + chosen.record.model.hex()
    mark = read.integrity.image_mark
    return "0x" + mark.model.hex() if mark is not None else None

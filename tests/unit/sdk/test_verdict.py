import itertools
from dataclasses import fields, replace

import pytest

from medprov_sdk.verdict import (
    Basis,
    Blocks,
    Content,
    Findings,
    Ledger,
    Mark,
    Reason,
    Seal,
    Signer,
    Verdict,
    decide,
    sentence,
)

VALUES = {
    "seal": list(Seal),
    "mark": list(Mark),
    "signer": list(Signer),
    "ledger": list(Ledger),
    "same_pixels": [False, True],
    "blocks": list(Blocks),
    "content": list(Content),
    "basis": list(Basis),
}
ALL = [Findings(*values) for values in itertools.product(*VALUES.values())]
SEALED = (Seal.INTACT, Seal.TURNED)
PROVED = Findings(Seal.INTACT, Mark.READ, Signer.MEMBER, Ledger.CONFIRMED, True)
DERIVED = Findings(mark=Mark.READ, ledger=Ledger.CONFIRMED, blocks=Blocks.NONE, content=Content.AGREES)


def test_the_table_covers_every_field() -> None:
    assert list(VALUES) == [field.name for field in fields(Findings)]
    assert len(ALL) == 4 * 3 * 4 * 8 * 2 * 4 * 7 * 4


def test_every_combination_has_one_verdict_and_a_reason_that_belongs_to_it() -> None:
    reasons: dict[Reason, set[Verdict]] = {}
    verdicts = set()
    for found in ALL:
        verdict, reason = decide(found)
        reasons.setdefault(reason, set()).add(verdict)
        verdicts.add(verdict)
    assert verdicts == set(Verdict)
    assert set(reasons) == set(Reason)
    assert all(len(belongs) == 1 for belongs in reasons.values()), reasons


def test_authentic_needs_intact_seal_confirmed_record_and_these_very_pixels() -> None:
    for found in ALL:
        authentic = decide(found)[0] is Verdict.AUTHENTIC
        wanted = (
            found.seal is Seal.INTACT
            and found.ledger is Ledger.CONFIRMED
            and found.same_pixels
            and found.signer in (Signer.MEMBER, Signer.NONE)
            and found.basis is not Basis.FILE
        )
        assert authentic == wanted, found


def test_revocation_and_conflict_come_before_everything_else() -> None:
    for found in ALL:
        verdict = decide(found)[0]
        known = found.basis is not Basis.FILE
        assert (verdict is Verdict.REVOKED) == (found.ledger is Ledger.REVOKED and known)
        assert (verdict is Verdict.CONFLICTING_CLAIMS) == (found.ledger is Ledger.CONFLICT and known)


def test_a_files_own_word_decides_nothing() -> None:
    for found in ALL:
        if found.basis is Basis.FILE:
            verdict, reason = decide(found)
            on_chain, as_anchored = decide(replace(found, basis=Basis.CHAIN))
            assert verdict in (Verdict.UNVERIFIABLE, Verdict.UNKNOWN), found
            if on_chain in (Verdict.UNVERIFIABLE, Verdict.UNKNOWN):
                assert (verdict, reason) == (on_chain, as_anchored), found
            else:
                assert reason is Reason.ANCHOR_AS_STATED, found


@pytest.mark.parametrize("basis", [Basis.CHECKPOINT, Basis.NAMED])
def test_what_is_pinned_decides_like_the_chain(basis: Basis) -> None:
    for found in ALL:
        if found.basis is Basis.CHAIN:
            assert decide(replace(found, basis=basis)) == decide(found)


def test_unknown_only_where_nothing_was_found() -> None:
    for found in ALL:
        nothing = found.seal not in SEALED and found.mark is Mark.ABSENT
        recorded = found.ledger in (Ledger.CONFIRMED, Ledger.CONFLICT, Ledger.REVOKED)
        assert (decide(found)[0] is Verdict.UNKNOWN) == (nothing and not recorded), found


def test_a_good_verdict_needs_a_confirmed_record() -> None:
    for found in ALL:
        verdict = decide(found)[0]
        if verdict in (Verdict.AUTHENTIC, Verdict.AUTHENTIC_DERIVED, Verdict.TAMPERED, Verdict.COPIED_MARK):
            assert found.ledger is Ledger.CONFIRMED, found


def test_changed_content_never_passes_as_derived_unless_the_pixels_are_proved() -> None:
    bad = (Content.DIFFERS, Content.DIFFERS_IN_PART)
    for found in ALL:
        if decide(found)[0] is Verdict.AUTHENTIC_DERIVED and not found.same_pixels:
            assert found.content not in bad and found.blocks is not Blocks.MIXED, found


def test_a_strangers_seal_never_gets_a_members_name() -> None:
    for found in ALL:
        if found.seal in SEALED and found.signer is Signer.FOREIGN:
            assert decide(found)[0] not in (Verdict.AUTHENTIC, Verdict.AUTHENTIC_DERIVED), found


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (PROVED, Verdict.AUTHENTIC, Reason.SIGNED_AND_ANCHORED),
        (replace(PROVED, signer=Signer.NONE), Verdict.AUTHENTIC, Reason.RELEASED_HASH),
        (replace(PROVED, seal=Seal.TURNED), Verdict.AUTHENTIC_DERIVED, Reason.TURNED_PIXELS_EXACT),
        (replace(PROVED, ledger=Ledger.NONE), Verdict.UNVERIFIABLE, Reason.NO_RECORD),
        (
            replace(PROVED, ledger=Ledger.CHAIN_AWAY, signer=Signer.UNCHECKED),
            Verdict.UNVERIFIABLE,
            Reason.CHAIN_UNREACHABLE,
        ),
        (replace(PROVED, ledger=Ledger.STORE_AWAY), Verdict.UNVERIFIABLE, Reason.STORE_UNREACHABLE),
        (replace(PROVED, basis=Basis.FILE), Verdict.UNVERIFIABLE, Reason.ANCHOR_AS_STATED),
        (replace(PROVED, basis=Basis.NAMED), Verdict.AUTHENTIC, Reason.SIGNED_AND_ANCHORED),
        (replace(PROVED, ledger=Ledger.ANOTHER), Verdict.UNVERIFIABLE, Reason.PROOF_OF_ANOTHER),
        (replace(PROVED, ledger=Ledger.MISMATCH), Verdict.UNVERIFIABLE, Reason.RECORD_MISMATCH),
        (replace(PROVED, ledger=Ledger.NONE, signer=Signer.FOREIGN), Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE),
        (replace(PROVED, ledger=Ledger.NONE, signer=Signer.NONE), Verdict.UNVERIFIABLE, Reason.NO_SIGNATURE),
        (DERIVED, Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES),
        (replace(DERIVED, blocks=Blocks.MIXED), Verdict.TAMPERED, Reason.BLOCKS_DIFFER),
        # exact blocks weigh more than features: the rule of `tampered` stands before the one of `copied_mark`
        (replace(DERIVED, blocks=Blocks.MIXED, content=Content.DIFFERS), Verdict.TAMPERED, Reason.BLOCKS_DIFFER),
        (replace(DERIVED, content=Content.DIFFERS_IN_PART), Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART),
        (replace(DERIVED, content=Content.DIFFERS), Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS),
        (replace(DERIVED, content=Content.TOO_LITTLE), Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_NOT_COMPARED),
        (replace(DERIVED, content=Content.UNREACHABLE), Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREACHABLE),
        (replace(DERIVED, content=Content.UNREADABLE), Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREADABLE),
        (Findings(mark=Mark.UNREADABLE), Verdict.UNVERIFIABLE, Reason.MARK_UNREADABLE),
        (Findings(mark=Mark.READ), Verdict.UNVERIFIABLE, Reason.NO_RECORD),
        (Findings(seal=Seal.BROKEN), Verdict.UNKNOWN, Reason.NOTHING_FOUND),
        (Findings(ledger=Ledger.CHAIN_AWAY), Verdict.UNKNOWN, Reason.NOTHING_FOUND),
        (Findings(), Verdict.UNKNOWN, Reason.NOTHING_FOUND),
    ],
)
def test_cases_by_name(found: Findings, verdict: Verdict, reason: Reason) -> None:
    assert decide(found) == (verdict, reason)


def test_exit_codes_differ_and_stay_clear_of_usage_errors() -> None:
    codes = {verdict.value: verdict.exit_code for verdict in Verdict}
    assert codes == {
        "authentic": 0,
        "authentic_derived": 10,
        "tampered": 20,
        "copied_mark": 21,
        "conflicting_claims": 22,
        "revoked": 23,
        "unverifiable": 24,
        "unknown": 25,
    }


def test_everything_has_a_sentence() -> None:
    assert all(sentence(verdict, reason).endswith(".") for verdict in Verdict for reason in Reason)
    assert len({reason.sentence for reason in Reason}) == len(Reason)


def test_the_sentence_claims_no_more_than_was_compared() -> None:
    for found in ALL:
        verdict, reason = decide(found)
        said = sentence(verdict, reason)
        assert "same content" not in said or reason is Reason.CONTENT_NOT_COMPARED
        if reason is Reason.CONTENT_NOT_COMPARED:
            assert said.endswith("was not compared.")
        if reason is Reason.CONTENT_AGREES:
            assert "1/10" in said and "1/10" in reason.sentence
        if verdict is Verdict.AUTHENTIC:
            assert "pixels alone" in said and "metadata" in said

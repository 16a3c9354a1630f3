// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Harness} from "./Harness.sol";
import {ProvenanceRegistry} from "../src/ProvenanceRegistry.sol";
import {IFederation} from "../src/interfaces/IFederation.sol";
import {IProvenanceRegistry} from "../src/interfaces/IProvenanceRegistry.sol";
import {IRecord} from "../src/interfaces/IRecord.sol";
import {ITitles} from "../src/interfaces/ITitles.sol";

contract RegistryTest is Harness {
    function setUp() public {
        found();
    }

    uint256 private constant LATER = 1_900_000_000;

    function leave(uint256 key, IRecord.Record memory record, uint256 deadline) private view returns (bytes memory) {
        return
            signed(key, keccak256(abi.encode(registry.REGISTRATION_TYPEHASH(), registry.recordIdOf(record), deadline)));
    }

    function leaveBatch(uint256 key, address owner, bytes32 root, uint32 count, string memory cid, uint256 deadline)
        private
        view
        returns (bytes memory)
    {
        return signed(
            key, keccak256(abi.encode(registry.BATCH_TYPEHASH(), owner, root, count, keccak256(bytes(cid)), deadline))
        );
    }

    // Relayed writing.

    function testFuzz_anybodyMayPay(uint256 number, address payer) public {
        VM.assume(payer != address(VM));
        IRecord.Record memory record = recordOf(A, number);
        bytes memory signature = leave(KEY_A, record, LATER);
        VM.prank(payer);
        bytes32 id = registry.registerFor(record, LATER, signature);
        (address owner, uint48 blockNumber,) = registry.registration(id);
        check(owner == A && blockNumber == block.number, "registered for its owner");
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.AlreadyRegistered.selector, record.releasedHash, id));
        VM.prank(payer);
        registry.registerFor(record, LATER, signature);
    }

    function testFuzz_onlyTheOwnersLeaveCounts(uint256 key, uint256 number) public {
        key = 1 + key % 1e30;
        VM.assume(key != KEY_A);
        IRecord.Record memory record = recordOf(A, number);
        bytes memory signature = leave(key, record, LATER);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(record, LATER, signature);
    }

    function test_leaveIsForOneRecordAndOneTime() public {
        IRecord.Record memory record = recordOf(A, 1);
        bytes memory signature = leave(KEY_A, record, LATER);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(recordOf(A, 2), LATER, signature);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(record, LATER + 1, signature);
        VM.warp(LATER + 1);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.Expired.selector, LATER));
        registry.registerFor(record, LATER, signature);
    }

    function test_theSignatureOfTheRecordIsNoLeave() public {
        IRecord.Record memory record = recordOf(A, 1);
        (uint8 v, bytes32 r, bytes32 s) = VM.sign(KEY_A, registry.recordIdOf(record));
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(record, LATER, abi.encodePacked(r, s, v));
    }

    function test_damagedSignaturesAreRefused() public {
        IRecord.Record memory record = recordOf(A, 1);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(record, LATER, hex"");
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.registerFor(record, LATER, new bytes(65));
    }

    function test_aStrangersLeaveIsNoMembers() public {
        IRecord.Record memory record = recordOf(VM.addr(7), 1);
        bytes memory signature = leave(7, record, LATER);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.NotMember.selector, VM.addr(7)));
        registry.registerFor(record, LATER, signature);
    }

    function testFuzz_batchesAreRelayedOnce(bytes32 root, uint32 count) public {
        VM.assume(root != 0 && count != 0);
        bytes memory signature = leaveBatch(KEY_B, B, root, count, "bafkreim", LATER);
        registry.anchorBatchFor(B, root, count, "bafkreim", LATER, signature);
        (uint48 blockNumber,, uint32 kept, string memory cid) = registry.anchor(B, root);
        check(blockNumber == block.number && kept == count, "anchored for its owner");
        check(keccak256(bytes(cid)) == keccak256("bafkreim"), "with its manifest");
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.RootAlreadyAnchored.selector, root, B));
        registry.anchorBatchFor(B, root, count, "bafkreim", LATER, signature);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, A));
        registry.anchorBatchFor(A, root, count, "bafkreim", LATER, signature);
    }

    function testFuzz_anOrderCoversEveryValue(bytes32 root, uint32 count, uint8 which) public {
        VM.assume(root != 0 && count > 1);
        bytes memory signature = leaveBatch(KEY_B, B, root, count, "bafkreim", LATER);
        bytes32 otherRoot = which % 4 == 0 ? ~root : root;
        uint32 otherCount = which % 4 == 1 ? count - 1 : count;
        string memory otherCid = which % 4 == 2 ? "bafkreio" : "bafkreim";
        uint256 otherDeadline = which % 4 == 3 ? LATER + 1 : LATER;
        VM.assume(otherRoot != 0);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadSignature.selector, B));
        registry.anchorBatchFor(B, otherRoot, otherCount, otherCid, otherDeadline, signature);
    }

    // Ownership.

    function test_ownershipNeedsBothSides() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotOffered.selector, id, B));
        registry.acceptTransfer(id);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, id, B));
        registry.offerTransfer(claim, B);
        VM.prank(A);
        registry.offerTransfer(claim, B);
        check(registry.ownerOf(id) == A, "an offer changes nothing");
        VM.prank(C);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotOffered.selector, id, C));
        registry.acceptTransfer(id);
        VM.prank(B);
        registry.acceptTransfer(id);
        check(registry.ownerOf(id) == B, "now it is B's");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, id, A));
        registry.revoke(claim, ITitles.Reason.Other, 0);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotOffered.selector, id, B));
        registry.acceptTransfer(id);
    }

    function test_anOfferCanBeTakenBack() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        VM.prank(A);
        registry.offerTransfer(claim, B);
        VM.prank(A);
        registry.offerTransfer(claim, address(0));
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotOffered.selector, id, B));
        registry.acceptTransfer(id);
    }

    function test_recipientsAreOtherMembers() public {
        (ITitles.Claim memory claim,) = registered(A, 1);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.BadRecipient.selector, A));
        registry.offerTransfer(claim, A);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.BadRecipient.selector, STRANGER));
        registry.offerTransfer(claim, STRANGER);
    }

    function testFuzz_aRecordInABatchHasATitle(uint256 number) public {
        IRecord.Record memory record = recordOf(A, number);
        ITitles.Claim memory claim = batched(record, A);
        bytes32 id = registry.recordIdOf(record);
        VM.prank(A);
        registry.offerTransfer(claim, C);
        VM.prank(C);
        registry.acceptTransfer(id);
        check(registry.ownerOf(id) == C, "it is C's");
    }

    function test_anothersRecordInOnesOwnBatchGivesNoTitle() public {
        IRecord.Record memory record = recordOf(A, 1);
        ITitles.Claim memory stolen = batched(record, B);
        bytes32 id = registry.recordIdOf(record);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Unproved.selector, id));
        registry.revoke(stolen, ITitles.Reason.Erroneous, 0);
        // not even after its owner has anchored it
        batched(record, A);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, id, B));
        registry.revoke(stolen, ITitles.Reason.Erroneous, 0);
    }

    function testFuzz_whatIsNotAnchoredHasNoTitle(uint256 number, bytes32 root, bytes32 sibling) public {
        IRecord.Record memory record = recordOf(A, number);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = sibling;
        bytes32 id = registry.recordIdOf(record);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Unproved.selector, id));
        registry.offerTransfer(ITitles.Claim(record, root, proof), B);
    }

    function test_titlesFollowTheOwnersKey() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        address next = VM.addr(99);
        VM.prank(A);
        registry.offerTransfer(claim, B);
        VM.prank(A);
        federation.offerKey(next);
        VM.prank(next);
        federation.acceptKey(A);
        check(registry.ownerOf(id) == next, "the new key owns it");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.NotMember.selector, A));
        registry.offerTransfer(claim, C);
        VM.prank(next);
        registry.revoke(claim, ITitles.Reason.KeyCompromised, 0);
    }

    // Revocation and licences.

    function test_revocationIsForGood() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NoReason.selector));
        registry.revoke(claim, ITitles.Reason.None, 0);
        VM.prank(A);
        registry.offerTransfer(claim, B);
        VM.prank(A);
        registry.revoke(claim, ITitles.Reason.ConsentWithdrawn, keccak256("note"));
        ITitles.Title memory held = registry.title(id);
        check(held.revokedTime == block.timestamp && held.reason == ITitles.Reason.ConsentWithdrawn, "kept");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Revoked.selector, id));
        registry.revoke(claim, ITitles.Reason.Other, 0);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Revoked.selector, id));
        registry.acceptTransfer(id);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Revoked.selector, id));
        registry.grantLicence(claim, STRANGER, uint48(LATER), 0);
    }

    function testFuzz_licencesExpire(uint48 expires, uint48 now_) public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        if (expires <= block.timestamp) {
            VM.prank(A);
            VM.expectRevert(abi.encodeWithSelector(ITitles.BadExpiry.selector, expires));
            registry.grantLicence(claim, STRANGER, expires, 0);
            return;
        }
        VM.prank(A);
        registry.grantLicence(claim, STRANGER, expires, keccak256("terms"));
        check(registry.isLicensed(id, STRANGER), "valid at once");
        if (now_ > block.timestamp) VM.warp(now_);
        check(registry.isLicensed(id, STRANGER) == (block.timestamp <= expires), "to its last second");
        check(!registry.isLicensed(id, C), "nobody else's");
    }

    function test_licencesEndWithTheRecordOrAreTakenBack() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, id, B));
        registry.grantLicence(claim, STRANGER, uint48(LATER), 0);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.BadRecipient.selector, address(0)));
        registry.grantLicence(claim, address(0), uint48(LATER), 0);
        VM.prank(A);
        registry.grantLicence(claim, STRANGER, uint48(LATER), 0);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, id, B));
        registry.withdrawLicence(id, STRANGER);
        VM.prank(A);
        registry.withdrawLicence(id, STRANGER);
        check(!registry.isLicensed(id, STRANGER), "taken back");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NoLicence.selector, id, STRANGER));
        registry.withdrawLicence(id, STRANGER);
        VM.prank(A);
        registry.grantLicence(claim, STRANGER, uint48(LATER), 0);
        VM.prank(A);
        registry.revoke(claim, ITitles.Reason.Other, 0);
        check(!registry.isLicensed(id, STRANGER), "ended with the record");
        check(registry.licence(id, STRANGER).expires == LATER, "but still to be seen");
    }

    // Disputes.

    function claims() private returns (ITitles.Claim memory first, ITitles.Claim memory second) {
        first = batched(recordOf(A, 1), A);
        VM.roll(block.number + 5);
        IRecord.Record memory copy = recordOf(B, 2);
        copy.markedHash = first.record.markedHash;
        second = batched(copy, B);
    }

    function test_theEarlierAnchorIsInTheRight() public {
        (ITitles.Claim memory first, ITitles.Claim memory second) = claims();
        bytes32 mine = registry.recordIdOf(first.record);
        bytes32 theirs = registry.recordIdOf(second.record);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotEarlier.selector, theirs, mine));
        registry.dispute(second, first);
        VM.prank(C);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotTitleOwner.selector, mine, C));
        registry.dispute(first, second);
        VM.prank(A);
        registry.dispute(first, second);
        check(registry.contestedBy(theirs) == mine && registry.contestedBy(mine) == 0, "the later one is contested");
    }

    function test_theEarliestContestantIsKept() public {
        IRecord.Record memory oldest = recordOf(C, 3);
        oldest.markedHash = recordOf(A, 1).markedHash;
        ITitles.Claim memory zeroth = batched(oldest, C);
        VM.roll(block.number + 1);
        (ITitles.Claim memory first, ITitles.Claim memory second) = claims();
        bytes32 theirs = registry.recordIdOf(second.record);
        VM.prank(A);
        registry.dispute(first, second);
        VM.prank(C);
        registry.dispute(zeroth, second);
        check(registry.contestedBy(theirs) == registry.recordIdOf(oldest), "the oldest");
        bytes32 mine = registry.recordIdOf(first.record);
        bytes32 kept = registry.recordIdOf(oldest);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.NotEarlier.selector, mine, kept));
        registry.dispute(first, second);
    }

    function test_strangersToEachOtherAreNotContested() public {
        ITitles.Claim memory first = batched(recordOf(A, 1), A);
        VM.roll(block.number + 1);
        ITitles.Claim memory second = batched(recordOf(B, 2), B);
        bytes32 mine = registry.recordIdOf(first.record);
        bytes32 theirs = registry.recordIdOf(second.record);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(ITitles.Unrelated.selector, mine, theirs));
        registry.dispute(first, second);
    }

    // Who may write.

    function testFuzz_strangersWriteNothing(address stranger) public {
        VM.assume(stranger != A && stranger != B && stranger != C);
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        bytes memory refused = abi.encodeWithSelector(IProvenanceRegistry.NotMember.selector, stranger);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.anchorBatch(keccak256("root"), 1, "bafkreim");
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.register(recordOf(stranger, 2));
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.offerTransfer(claim, B);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.acceptTransfer(id);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.grantLicence(claim, stranger, uint48(LATER), 0);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.withdrawLicence(id, stranger);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.revoke(claim, ITitles.Reason.Other, 0);
        VM.prank(stranger);
        VM.expectRevert(refused);
        registry.dispute(claim, claim);
    }

    function test_nobodyWritesDuringAPause() public {
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        agree(IFederation.Kind.Pause, address(0), "");
        bytes memory refused = abi.encodeWithSelector(IProvenanceRegistry.Paused.selector);
        VM.prank(A);
        VM.expectRevert(refused);
        registry.anchorBatch(keccak256("root"), 1, "bafkreim");
        VM.prank(A);
        VM.expectRevert(refused);
        registry.register(recordOf(A, 2));
        VM.prank(A);
        VM.expectRevert(refused);
        registry.revoke(claim, ITitles.Reason.Other, 0);
        VM.prank(B);
        VM.expectRevert(refused);
        registry.acceptTransfer(id);
        agree(IFederation.Kind.Unpause, address(0), "");
        VM.prank(A);
        registry.revoke(claim, ITitles.Reason.Other, 0);
    }

    // What a record and an anchor must be.

    function test_nobodyRegistersForAnotherByItself() public {
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.NotOwner.selector, B, A));
        registry.register(recordOf(A, 1));
    }

    function testFuzz_anotherMemberTakesNoReleasedImage(bytes32 key, uint64 time) public {
        VM.assume(key != 0);
        (ITitles.Claim memory claim, bytes32 id) = registered(A, 1);
        IRecord.Record memory stolen = recordOf(B, 2);
        (stolen.key, stolen.time, stolen.releasedHash) = (key, time, claim.record.releasedHash);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.AlreadyRegistered.selector, stolen.releasedHash, id));
        registry.register(stolen);
        check(registry.recordOf(stolen.releasedHash) == id, "it stays the first one's");
    }

    function test_eachMemberAnchorsARootForItself() public {
        VM.prank(A);
        registry.anchorBatch(keccak256("root"), 3, "bafkreim");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.RootAlreadyAnchored.selector, keccak256("root"), A));
        registry.anchorBatch(keccak256("root"), 4, "bafkreiother");
        VM.prank(B);
        registry.anchorBatch(keccak256("root"), 5, "bafkreib");
        (,, uint32 count,) = registry.anchor(A, keccak256("root"));
        check(count == 3, "A's is as it was");
    }

    function test_emptyThingsAreRefused() public {
        bytes memory zero = abi.encodeWithSelector(IProvenanceRegistry.ZeroHash.selector);
        VM.prank(A);
        VM.expectRevert(zero);
        registry.anchorBatch(0, 1, "bafkreim");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.EmptyBatch.selector));
        registry.anchorBatch(keccak256("root"), 0, "bafkreim");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadCid.selector, 0));
        registry.anchorBatch(keccak256("root"), 1, "");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.BadCid.selector, 129));
        registry.anchorBatch(keccak256("root"), 1, string(new bytes(129)));
        IRecord.Record memory record = recordOf(A, 1);
        record.releasedHash = 0;
        VM.prank(A);
        VM.expectRevert(zero);
        registry.register(record);
    }

    function testFuzz_onlyAnchoredRootsProve(bytes32 value, bytes32 sibling) public {
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = sibling;
        bytes32 own = leaf(value);
        bytes32 root = own < sibling ? keccak256(abi.encode(own, sibling)) : keccak256(abi.encode(sibling, own));
        check(!registry.verify(A, root, value, proof), "not before it is anchored");
        VM.prank(A);
        registry.anchorBatch(root, 2, "bafkreim");
        check(registry.verify(A, root, value, proof), "then it does");
        check(!registry.verify(B, root, value, proof), "for its owner alone");
    }

    function testFuzz_anInnerNodeIsNoLeaf(bytes32 value, bytes32 sibling, bytes32 uncle) public {
        bytes32 own = leaf(value);
        bytes32 inner = own < sibling ? keccak256(abi.encode(own, sibling)) : keccak256(abi.encode(sibling, own));
        bytes32 root = inner < uncle ? keccak256(abi.encode(inner, uncle)) : keccak256(abi.encode(uncle, inner));
        VM.prank(A);
        registry.anchorBatch(root, 3, "bafkreim");
        bytes32[] memory rest = new bytes32[](1);
        rest[0] = uncle;
        check(!registry.verify(A, root, inner, rest), "an inner node");
        check(!registry.verify(A, root, root, new bytes32[](0)), "the root itself");
        bytes32[] memory way = new bytes32[](2);
        (way[0], way[1]) = (sibling, uncle);
        check(!registry.verify(A, root, own, way), "a leaf's hash");
        check(!registry.verify(A, root, keccak256(abi.encode(value)), way), "nor its inner hash");
        check(registry.verify(A, root, value, way), "the leaf");
    }

    function test_aRegistryNeedsAFederation() public {
        Nothing nothing = new Nothing();
        VM.expectRevert(abi.encodeWithSelector(IProvenanceRegistry.ZeroHash.selector));
        new ProvenanceRegistry(IFederation(address(nothing)));
    }
}

/// @dev Answers every question with zeros.
contract Nothing {
    fallback(bytes calldata) external returns (bytes memory) {
        return new bytes(32);
    }
}

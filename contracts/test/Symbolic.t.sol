// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Federation} from "../src/Federation.sol";
import {ProvenanceRegistry} from "../src/ProvenanceRegistry.sol";
import {IFederation} from "../src/interfaces/IFederation.sol";
import {IRecord} from "../src/interfaces/IRecord.sol";
import {ITitles} from "../src/interfaces/ITitles.sol";
import {Vm} from "./Harness.sol";

/// @dev The cheat codes of halmos that the checks use.
interface Svm {
    function createCalldata(string calldata contractName) external pure returns (bytes memory data);
    function enableSymbolicStorage(address account) external;
}

interface Loading {
    function load(address account, bytes32 slot) external view returns (bytes32);
}

/// @title SymbolicTest
/// @notice What halmos proves for all values. A check that calls `anyState` begins with arbitrary storage and makes one
/// arbitrary call, so it holds by induction for every state that can be reached. Strings have 59 bytes, as CIDs have;
/// X
contract SymbolicTest {
    address private constant CHEATS = address(uint160(uint256(keccak256("hevm cheat code"))));
    Vm private constant VM = Vm(CHEATS);
    Svm private constant SVM = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
    address private constant A = address(0xA11CE);
    address private constant B = address(0xB0B);
    address private constant C = address(0xCA401);
    string private constant CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    /// @dev Storage slot of the registry's anchors; check_anAnchorLiesWhereItIsLookedFor fails where it is another.
    uint256 private constant ANCHORS = 5;

    Federation private federation;
    ProvenanceRegistry private registry;

    function setUp() public {
        IFederation.Founder[] memory founders = new IFederation.Founder[](3);
        founders[0] = IFederation.Founder(A, keccak256("a"), keccak256("key a"));
        founders[1] = IFederation.Founder(B, keccak256("b"), keccak256("key b"));
        founders[2] = IFederation.Founder(C, keccak256("c"), keccak256("key c"));
        federation = new Federation(keccak256("federation"), founders, 2);
        registry = new ProvenanceRegistry(federation);
    }

    function anyState(address account) private {
        SVM.enableSymbolicStorage(account);
    }

    function attempt(address target, address caller, bytes memory data) private returns (bool done) {
        VM.prank(caller);
        (done,) = target.call(data);
    }

    // Only members write.

    function check_strangersWriteNothing(address caller) public {
        anyState(address(registry));
        anyState(address(federation));
        VM.assume(!federation.isMember(caller));
        bytes memory data = SVM.createCalldata("ProvenanceRegistry");
        // what a relayer may send needs a member's signature instead, see below
        VM.assume(bytes4(data) != registry.registerFor.selector && bytes4(data) != registry.anchorBatchFor.selector);
        assert(!attempt(address(registry), caller, data));
    }

    function check_strangersDecideNothing(address caller) public {
        anyState(address(federation));
        VM.assume(!federation.isMember(caller));
        bytes memory data = SVM.createCalldata("Federation");
        VM.assume(bytes4(data) != federation.acceptKey.selector);
        assert(!attempt(address(federation), caller, data));
    }

    function check_onlyTheOfferedKeyGoesOn(address caller, address account, address other) public {
        anyState(address(federation));
        // in states that can be reached, whoever is a member was one before and is no unused account
        VM.assume(caller != account && other != account && other != caller);
        bool wasMember = federation.isMember(account);
        IFederation.Status before = federation.member(other).status;
        VM.assume(attempt(address(federation), caller, abi.encodeCall(federation.acceptKey, (account))));
        assert(wasMember && federation.isMember(caller) && !federation.isMember(account));
        assert(federation.member(other).status == before);
    }

    function check_nobodyWritesDuringAPause(address caller) public {
        anyState(address(registry));
        anyState(address(federation));
        VM.assume(federation.paused());
        assert(!attempt(address(registry), caller, SVM.createCalldata("ProvenanceRegistry")));
    }

    function check_theThresholdCanAlwaysBeReached(address caller) public {
        anyState(address(federation));
        VM.assume(federation.threshold() >= 1 && federation.threshold() <= federation.activeCount());
        VM.assume(federation.activeCount() < type(uint128).max);
        VM.assume(attempt(address(federation), caller, SVM.createCalldata("Federation")));
        assert(federation.threshold() >= 1 && federation.threshold() <= federation.activeCount());
    }

    // A root never changes.

    function check_anAnchorLiesWhereItIsLookedFor(bytes32 root, uint32 count) public {
        VM.assume(root != 0 && count != 0);
        VM.roll(7);
        VM.prank(A);
        registry.anchorBatch(root, count, CID);
        (bytes32 head,,,) = anchorWords(A, root);
        assert(uint48(uint256(head)) == 7 && uint32(uint256(head) >> 96) == count);
    }

    function check_aRootNeverChanges(address caller, address owner, bytes32 root) public {
        anyState(address(registry));
        (bytes32 head, bytes32 length, bytes32 first, bytes32 second) = anchorWords(owner, root);
        VM.assume(uint48(uint256(head)) != 0);
        VM.assume(attempt(address(registry), caller, SVM.createCalldata("ProvenanceRegistry")));
        (bytes32 head_, bytes32 length_, bytes32 first_, bytes32 second_) = anchorWords(owner, root);
        assert(head == head_ && length == length_ && first == first_ && second == second_);
    }

    function anchorWords(address owner, bytes32 root) private view returns (bytes32, bytes32, bytes32, bytes32) {
        bytes32 at = keccak256(abi.encode(root, keccak256(abi.encode(owner, ANCHORS))));
        uint256 cid = uint256(keccak256(abi.encode(uint256(at) + 1)));
        return (word(at), word(bytes32(uint256(at) + 1)), word(bytes32(cid)), word(bytes32(cid + 1)));
    }

    function word(bytes32 slot) private view returns (bytes32) {
        return Loading(CHEATS).load(address(registry), slot);
    }

    // Ownership needs both sides; a revocation is for good.

    function check_ownershipChangesByAcceptanceOnly(address caller, bytes32 id) public {
        anyState(address(registry));
        ITitles.Title memory before = registry.title(id);
        bytes memory data = SVM.createCalldata("ProvenanceRegistry");
        VM.assume(bytes4(data) != registry.acceptTransfer.selector && bytes4(data) != registry.dispute.selector);
        VM.assume(attempt(address(registry), caller, data));
        address later = registry.title(id).owner;
        if (before.owner != address(0)) assert(later == before.owner);
        // the first change writes down the owner that the record names, and only that owner makes it
        else if (later != address(0)) assert(federation.currentOf(later) == caller);
    }

    function check_aDisputeMovesNoOwnership(address caller, bytes32 id, address owner, bytes32 key) public {
        anyState(address(registry));
        ITitles.Title memory before = registry.title(id);
        VM.assume(before.owner != address(0));
        ITitles.Claim memory mine = single(recordOf(owner, 1));
        ITitles.Claim memory theirs = single(recordOf(B, 2));
        mine.record.key = key;
        VM.assume(attempt(address(registry), caller, abi.encodeCall(registry.dispute, (mine, theirs))));
        ITitles.Title memory later = registry.title(id);
        assert(later.owner == before.owner && later.revokedTime == before.revokedTime);
    }

    function check_onlyTheOfferedAccepts(address caller, bytes32 id, bytes32 other) public {
        anyState(address(registry));
        anyState(address(federation));
        ITitles.Title memory before = registry.title(id);
        VM.assume(attempt(address(registry), caller, abi.encodeCall(registry.acceptTransfer, (other))));
        ITitles.Title memory later = registry.title(id);
        if (id == other) {
            assert(later.owner == caller && later.offered == address(0));
            assert(before.offered != address(0) && federation.currentOf(before.offered) == caller);
            assert(federation.isMember(caller) && before.revokedTime == 0);
        } else {
            assert(later.owner == before.owner && later.offered == before.offered);
        }
    }

    function check_aRevocationIsForGood(address caller, bytes32 id) public {
        anyState(address(registry));
        ITitles.Title memory before = registry.title(id);
        VM.assume(before.revokedTime != 0);
        bytes memory data = SVM.createCalldata("ProvenanceRegistry");
        VM.assume(bytes4(data) != registry.dispute.selector);
        VM.assume(attempt(address(registry), caller, data));
        ITitles.Title memory later = registry.title(id);
        assert(later.revokedTime == before.revokedTime && later.reason == before.reason && later.owner == before.owner);
    }

    // Signatures of members, sent by others.

    function check_aRegistrationIsSignedInTimeAndUsedOnce(
        address payer,
        address owner,
        bytes32 released,
        uint256 deadline,
        uint48 time,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public {
        VM.warp(time);
        IRecord.Record memory record = recordOf(owner, 1);
        record.releasedHash = released;
        bytes memory data = abi.encodeCall(registry.registerFor, (record, deadline, abi.encodePacked(r, s, v)));
        VM.assume(attempt(address(registry), payer, data));
        bytes32 hash = keccak256(abi.encode(registry.REGISTRATION_TYPEHASH(), registry.recordIdOf(record), deadline));
        assert(time <= deadline && federation.isMember(owner));
        assert(ecrecover(digest(hash), v, r, s) == owner);
        assert(registry.recordOf(released) == registry.recordIdOf(record));
        assert(!attempt(address(registry), payer, data));
    }

    function check_aBatchIsSignedInTimeAndUsedOnce(
        address payer,
        address owner,
        bytes32 root,
        uint32 count,
        uint256 deadline,
        uint48 time,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) public {
        VM.warp(time);
        VM.roll(7);
        bytes memory data =
            abi.encodeCall(registry.anchorBatchFor, (owner, root, count, CID, deadline, abi.encodePacked(r, s, v)));
        VM.assume(attempt(address(registry), payer, data));
        bytes32 hash =
            keccak256(abi.encode(registry.BATCH_TYPEHASH(), owner, root, count, keccak256(bytes(CID)), deadline));
        assert(time <= deadline && federation.isMember(owner));
        assert(ecrecover(digest(hash), v, r, s) == owner);
        assert(!attempt(address(registry), payer, data));
    }

    // The earliest anchor is in the right.

    function check_theEarliestAnchorIsInTheRight(uint48 blockA, uint48 blockB, uint48 blockC) public {
        VM.assume(blockA != 0 && blockB != 0 && blockC != 0);
        (ITitles.Claim memory a, bytes32 idA) = registered(A, 1, blockA);
        (ITitles.Claim memory b, bytes32 idB) = registered(B, 2, blockB);
        (ITitles.Claim memory c, bytes32 idC) = registered(C, 3, blockC);
        bool byA = attempt(address(registry), A, abi.encodeCall(registry.dispute, (a, b)));
        bool byC = attempt(address(registry), C, abi.encodeCall(registry.dispute, (c, b)));
        assert(byA == (blockA < blockB));
        assert(byC == (blockC < blockB && (!byA || blockC < blockA)));
        assert(registry.contestedBy(idB) == (byC ? idC : byA ? idA : bytes32(0)));
        assert(registry.contestedBy(idA) == 0 && registry.contestedBy(idC) == 0);
    }

    function registered(address owner, uint256 number, uint48 at)
        private
        returns (ITitles.Claim memory claim, bytes32 id)
    {
        claim = single(recordOf(owner, number));
        VM.roll(at);
        VM.prank(owner);
        id = registry.register(claim.record);
    }

    function single(IRecord.Record memory record) private pure returns (ITitles.Claim memory) {
        return ITitles.Claim(record, 0, new bytes32[](0));
    }

    /// @dev All of them carry the same mark.
    function recordOf(address owner, uint256 number) private pure returns (IRecord.Record memory) {
        bytes32 own = keccak256(abi.encode(number));
        return IRecord.Record(1, keccak256("key"), own, own, own, CID, CID, owner, keccak256("model"), 1_800_000_000);
    }

    function digest(bytes32 structHash) private view returns (bytes32) {
        (, string memory name, string memory version, uint256 chainId, address at,,) = registry.eip712Domain();
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chainId,
                at
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}

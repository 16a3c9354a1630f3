// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Harness} from "./Harness.sol";
import {IRecord} from "../src/interfaces/IRecord.sol";
import {ITitles} from "../src/interfaces/ITitles.sol";

/// @dev Members and strangers who try everything, and what they may have achieved.
contract Crowd is Harness {
    uint256 public constant RECORDS = 4;
    ITitles.Claim[] private _claims;
    bytes32[] public ids;
    bytes32[] public roots;
    mapping(bytes32 root => bytes32 state) public first;
    mapping(bytes32 id => address owner) public entitled;
    mapping(bytes32 id => address offered) public offered;
    uint256 public registrations;
    uint256 public strangersWrites;

    constructor() {
        found();
        for (uint256 i = 0; i < RECORDS; ++i) {
            (ITitles.Claim memory claim, bytes32 id) = registered(i % 2 == 0 ? A : B, i);
            _claims.push(claim);
            ids.push(id);
            entitled[id] = claim.record.owner;
        }
        registrations = RECORDS;
    }

    function who(uint256 seed) private view returns (address) {
        return [A, B, C, STRANGER][seed % 4];
    }

    function wrote(address caller) private {
        if (caller == STRANGER) ++strangersWrites;
    }

    function anchor(uint256 seed, bytes32 root, uint32 count) external {
        address caller = who(seed);
        root = keccak256(abi.encode(uint256(root) % 3));
        VM.prank(caller);
        try registry.anchorBatch(root, count, "bafkreim") {
            wrote(caller);
            bytes32 key = keccak256(abi.encode(caller, root));
            if (first[key] != 0) revert("anchored twice");
            first[key] = state(caller, root);
            roots.push(root);
        } catch {}
    }

    function register(uint256 seed, uint256 owner, uint256 number) external {
        address caller = who(seed);
        VM.prank(caller);
        try registry.register(recordOf(who(owner), 100 + number % 3)) {
            wrote(caller);
            ++registrations;
        } catch {}
    }

    function offer(uint256 seed, uint256 which, uint256 to) external {
        address caller = who(seed);
        bytes32 id = ids[which % RECORDS];
        address recipient = to % 5 == 4 ? address(0) : who(to);
        VM.prank(caller);
        try registry.offerTransfer(_claims[which % RECORDS], recipient) {
            wrote(caller);
            require(entitled[id] == caller, "offered by another");
            offered[id] = recipient;
        } catch {}
    }

    function accept(uint256 seed, uint256 which) external {
        address caller = who(seed);
        bytes32 id = ids[which % RECORDS];
        VM.prank(caller);
        try registry.acceptTransfer(id) {
            wrote(caller);
            require(offered[id] == caller && caller != address(0), "accepted without an offer");
            entitled[id] = caller;
            offered[id] = address(0);
        } catch {}
    }

    function licence(uint256 seed, uint256 which) external {
        address caller = who(seed);
        VM.prank(caller);
        try registry.grantLicence(_claims[which % RECORDS], C, type(uint48).max, 0) {
            wrote(caller);
            require(entitled[ids[which % RECORDS]] == caller, "licensed by another");
        } catch {}
    }

    function state(address owner, bytes32 root) public view returns (bytes32) {
        (uint48 blockNumber, uint48 time, uint32 count, string memory cid) = registry.anchor(owner, root);
        return keccak256(abi.encode(blockNumber, time, count, cid));
    }

    function unchanged() external view returns (bool) {
        address[3] memory members = [A, B, C];
        for (uint256 i = 0; i < roots.length; ++i) {
            for (uint256 m = 0; m < 3; ++m) {
                bytes32 kept = first[keccak256(abi.encode(members[m], roots[i]))];
                if (kept != 0 && kept != state(members[m], roots[i])) return false;
            }
        }
        return true;
    }

    function titled(uint256 which) external view returns (address) {
        return registry.ownerOf(ids[which]);
    }

    function singles() external view returns (uint256 count) {
        address[3] memory members = [A, B, C];
        for (uint256 number = 0; number < 103; ++number) {
            if (number == RECORDS) number = 100;
            for (uint256 m = 0; m < 3; ++m) {
                IRecord.Record memory record = recordOf(members[m], number);
                (, uint48 blockNumber,) = registry.registration(registry.recordIdOf(record));
                if (blockNumber != 0) ++count;
            }
        }
    }
}

contract Invariants {
    Crowd private crowd;

    function setUp() public {
        crowd = new Crowd();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(crowd);
    }

    function invariant_onlyMembersWrite() external view {
        require(crowd.strangersWrites() == 0, "a stranger wrote");
    }

    function invariant_aRootNeverChanges() external view {
        require(crowd.unchanged(), "an anchor changed");
    }

    function invariant_ownershipNeedsBothSides() external view {
        for (uint256 i = 0; i < crowd.RECORDS(); ++i) {
            address owner = crowd.titled(i);
            require(owner == address(0) || owner == crowd.entitled(crowd.ids(i)), "an owner changed by itself");
        }
    }

    function invariant_countsAddUp() external view {
        require(crowd.singles() == crowd.registrations(), "registrations were lost or invented");
    }
}

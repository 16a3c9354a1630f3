// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Harness} from "./Harness.sol";
import {IFederation} from "../src/interfaces/IFederation.sol";
import {IRecord} from "../src/interfaces/IRecord.sol";
import {ITitles} from "../src/interfaces/ITitles.sol";

/// @dev What each kind of transaction costs; `.gas-snapshot` keeps the figures, and a test compares them.
contract GasTest is Harness {
    ITitles.Claim private claim;
    bytes32 private id;
    bytes private leave;

    function setUp() public {
        found();
        IRecord.Record memory record = recordOf(A, 1);
        claim = batched(record, A);
        id = registry.recordIdOf(record);
        bytes32 other = registry.recordIdOf(recordOf(A, 2));
        leave = signed(KEY_A, keccak256(abi.encode(registry.REGISTRATION_TYPEHASH(), other, 1_900_000_000)));
        VM.prank(A);
        registry.offerTransfer(claim, B);
    }

    function test_anchorBatch() public {
        VM.prank(A);
        registry.anchorBatch(keccak256("root"), 1000, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }

    function test_register() public {
        VM.prank(A);
        registry.register(recordOf(A, 2));
    }

    function test_registerFor() public {
        registry.registerFor(recordOf(A, 2), 1_900_000_000, leave);
    }

    function test_offerTransfer() public {
        VM.prank(A);
        registry.offerTransfer(claim, C);
    }

    function test_acceptTransfer() public {
        VM.prank(B);
        registry.acceptTransfer(id);
    }

    function test_grantLicence() public {
        VM.prank(A);
        registry.grantLicence(claim, STRANGER, 1_900_000_000, keccak256("terms"));
    }

    function test_revoke() public {
        VM.prank(A);
        registry.revoke(claim, ITitles.Reason.ConsentWithdrawn, 0);
    }

    function test_anchorRound() public {
        VM.prank(A);
        federation.anchorRound(1, keccak256("m"), "bafkreim", keccak256("u"), keccak256("x"));
    }

    function test_vote() public {
        VM.prank(A);
        federation.vote(IFederation.Kind.Suspend, C, "");
    }
}

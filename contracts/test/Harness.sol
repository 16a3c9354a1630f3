// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Federation} from "../src/Federation.sol";
import {ProvenanceRegistry} from "../src/ProvenanceRegistry.sol";
import {IFederation} from "../src/interfaces/IFederation.sol";
import {IRecord} from "../src/interfaces/IRecord.sol";
import {ITitles} from "../src/interfaces/ITitles.sol";

/// @dev The cheat codes of forge that the tests use.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function prank(address sender) external;
    function roll(uint256 number) external;
    function warp(uint256 time) external;
    function assume(bool condition) external pure;
    function expectRevert(bytes calldata data) external;
}

/// @title Harness
/// @notice A federation of three hospitals of which two must agree, its registry, and records to play with.
abstract contract Harness {
    Vm internal constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant KEY_A = 0xA11CE;
    uint256 internal constant KEY_B = 0xB0B;
    uint256 internal constant KEY_C = 0xCA401;
    address internal constant STRANGER = address(0x5742A);

    address internal immutable A = VM.addr(KEY_A);
    address internal immutable B = VM.addr(KEY_B);
    address internal immutable C = VM.addr(KEY_C);
    Federation internal federation;
    ProvenanceRegistry internal registry;

    function found() internal {
        IFederation.Founder[] memory founders = new IFederation.Founder[](3);
        founders[0] = IFederation.Founder(A, keccak256("a"), keccak256("key a"));
        founders[1] = IFederation.Founder(B, keccak256("b"), keccak256("key b"));
        founders[2] = IFederation.Founder(C, keccak256("c"), keccak256("key c"));
        VM.roll(10);
        VM.warp(1_800_000_000);
        federation = new Federation(keccak256("federation"), founders, 2);
        registry = new ProvenanceRegistry(federation);
    }

    function recordOf(address owner, uint256 number) internal pure returns (IRecord.Record memory) {
        bytes32 seed = keccak256(abi.encode(number));
        return IRecord.Record({
            format: 1,
            key: seed,
            coverHash: keccak256(abi.encode(seed, "cover")),
            markedHash: keccak256(abi.encode(seed, "marked")),
            releasedHash: keccak256(abi.encode(seed, "released")),
            evidenceCid: "bafkreievidence",
            bundleCid: "bafkreibundle",
            owner: owner,
            model: keccak256("model"),
            time: 1_800_000_000
        });
    }

    /// @dev A record that was registered by itself.
    function registered(address owner, uint256 number) internal returns (ITitles.Claim memory claim, bytes32 id) {
        claim = single(recordOf(owner, number));
        VM.prank(owner);
        id = registry.register(claim.record);
    }

    function single(IRecord.Record memory record) internal pure returns (ITitles.Claim memory) {
        return ITitles.Claim(record, 0, new bytes32[](0));
    }

    /// @dev A record and its proof in a batch of two, which `by` anchors.
    function batched(IRecord.Record memory record, address by) internal returns (ITitles.Claim memory claim) {
        bytes32 own = leaf(registry.recordIdOf(record));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = leaf(keccak256("another record"));
        bytes32 root = own < proof[0] ? keccak256(abi.encode(own, proof[0])) : keccak256(abi.encode(proof[0], own));
        VM.prank(by);
        registry.anchorBatch(root, 2, "bafkreimanifest");
        return ITitles.Claim(record, root, proof);
    }

    function leaf(bytes32 id) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(id))));
    }

    function domain() internal view returns (bytes32) {
        (, string memory name, string memory version, uint256 chainId, address at,,) = registry.eip712Domain();
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chainId,
                at
            )
        );
    }

    function signed(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = VM.sign(key, keccak256(abi.encodePacked(hex"1901", domain(), structHash)));
        return abi.encodePacked(r, s, v);
    }

    function agree(IFederation.Kind kind, address account, bytes memory data) internal {
        VM.prank(A);
        federation.vote(kind, account, data);
        VM.prank(B);
        federation.vote(kind, account, data);
    }

    function check(bool holds, string memory what) internal pure {
        require(holds, what);
    }
}

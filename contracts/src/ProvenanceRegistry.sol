// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IFederation} from "./interfaces/IFederation.sol";
import {IProvenanceRegistry} from "./interfaces/IProvenanceRegistry.sol";

/// @title ProvenanceRegistry
/// @notice See {IProvenanceRegistry}.
contract ProvenanceRegistry is IProvenanceRegistry, EIP712 {
    struct Anchor {
        uint48 blockNumber;
        uint48 time;
        uint32 count;
        string cid;
    }

    struct Registration {
        address owner;
        uint48 blockNumber;
        uint48 time;
    }

    /// @notice Longest content identifier in bytes; a CIDv1 with SHA-256 in base32 has 59.
    uint256 public constant MAX_CID = 128;
    /// @notice EIP-712 type of a record.
    bytes32 public constant RECORD_TYPEHASH = keccak256(
        "Record(uint16 format,bytes32 key,bytes32 coverHash,bytes32 markedHash,bytes32 releasedHash,"
        "string evidenceCid,string bundleCid,address owner,bytes32 model,uint64 time)"
    );

    /// @inheritdoc IProvenanceRegistry
    IFederation public immutable FEDERATION;

    /// @dev By owner too: whoever sees a root before it is mined must not be able to take it from its owner.
    mapping(address owner => mapping(bytes32 root => Anchor)) private _anchors;
    mapping(bytes32 recordId => Registration) private _registrations;
    /// @inheritdoc IProvenanceRegistry
    mapping(bytes32 releasedHash => bytes32 recordId) public recordOf;

    modifier onlyMember() {
        if (!FEDERATION.isMember(msg.sender)) revert NotMember(msg.sender);
        _;
    }

    /// @notice Make a registry.
    /// @param federation The federation whose members may write.
    constructor(IFederation federation) EIP712("medprov", "1") {
        FEDERATION = federation;
        // fails here, and not at the first record, where there is no federation at this address
        federation.federationId();
    }

    /// @inheritdoc IProvenanceRegistry
    function anchorBatch(bytes32 root, uint32 count, string calldata cid) external onlyMember {
        if (root == 0) revert ZeroHash();
        if (count == 0) revert EmptyBatch();
        _checkCid(cid);
        if (_anchors[msg.sender][root].blockNumber != 0) revert RootAlreadyAnchored(root, msg.sender);
        uint48 time = uint48(block.timestamp);
        _anchors[msg.sender][root] = Anchor(SafeCast.toUint48(block.number), time, count, cid);
        emit BatchAnchored(root, msg.sender, count, time, cid);
    }

    /// @inheritdoc IProvenanceRegistry
    function register(Record calldata record) external onlyMember returns (bytes32 recordId) {
        if (record.owner != msg.sender) revert NotOwner(msg.sender, record.owner);
        if (record.key == 0 || record.releasedHash == 0) revert ZeroHash();
        _checkCid(record.evidenceCid);
        if (bytes(record.bundleCid).length != 0) _checkCid(record.bundleCid);
        bytes32 earlier = recordOf[record.releasedHash];
        if (earlier != 0) revert AlreadyRegistered(record.releasedHash, earlier);
        recordId = recordIdOf(record);
        uint48 time = uint48(block.timestamp);
        recordOf[record.releasedHash] = recordId;
        _registrations[recordId] = Registration(msg.sender, SafeCast.toUint48(block.number), time);
        emit RecordRegistered(recordId, msg.sender, record.key, time, record);
    }

    /// @inheritdoc IProvenanceRegistry
    function anchor(address owner, bytes32 root)
        external
        view
        returns (uint48 blockNumber, uint48 time, uint32 count, string memory cid)
    {
        Anchor storage found = _anchors[owner][root];
        return (found.blockNumber, found.time, found.count, found.cid);
    }

    /// @inheritdoc IProvenanceRegistry
    function verify(address owner, bytes32 root, bytes32 leaf, bytes32[] calldata proof) external view returns (bool) {
        if (_anchors[owner][root].blockNumber == 0) return false;
        return MerkleProof.verifyCalldata(proof, root, keccak256(bytes.concat(keccak256(abi.encode(leaf)))));
    }

    /// @inheritdoc IProvenanceRegistry
    function registration(bytes32 recordId) external view returns (address owner, uint48 blockNumber, uint48 time) {
        Registration storage found = _registrations[recordId];
        return (found.owner, found.blockNumber, found.time);
    }

    /// @inheritdoc IProvenanceRegistry
    function recordIdOf(Record calldata record) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    RECORD_TYPEHASH,
                    record.format,
                    record.key,
                    record.coverHash,
                    record.markedHash,
                    record.releasedHash,
                    keccak256(bytes(record.evidenceCid)),
                    keccak256(bytes(record.bundleCid)),
                    record.owner,
                    record.model,
                    record.time
                )
            )
        );
    }

    function _checkCid(string calldata cid) private pure {
        uint256 length = bytes(cid).length;
        if (length == 0 || length > MAX_CID) revert BadCid(length);
    }
}

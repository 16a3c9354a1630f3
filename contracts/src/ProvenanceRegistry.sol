// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IFederation} from "./interfaces/IFederation.sol";
import {IProvenanceRegistry} from "./interfaces/IProvenanceRegistry.sol";
import {Titles} from "./Titles.sol";

/// @title ProvenanceRegistry
/// @notice See {IProvenanceRegistry}.
contract ProvenanceRegistry is IProvenanceRegistry, Titles, EIP712 {
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
    /// @notice EIP-712 type of a member's leave to anchor a batch for it.
    bytes32 public constant BATCH_TYPEHASH =
        keccak256("BatchAnchor(address owner,bytes32 root,uint32 count,string cid,uint256 deadline)");
    /// @notice EIP-712 type of an owner's leave to register a record for it.
    bytes32 public constant REGISTRATION_TYPEHASH = keccak256("Registration(bytes32 recordId,uint256 deadline)");

    // immutables are written like constants
    // slither-disable-start naming-convention
    /// @inheritdoc IProvenanceRegistry
    IFederation public immutable FEDERATION;
    // slither-disable-end naming-convention

    /// @dev By owner too: whoever sees a root before it is mined must not be able to take it from its owner.
    mapping(address owner => mapping(bytes32 root => Anchor)) private _anchors;
    mapping(bytes32 recordId => Registration) private _registrations;
    /// @inheritdoc IProvenanceRegistry
    mapping(bytes32 releasedHash => bytes32 recordId) public recordOf;

    /// @notice Make a registry.
    /// @param federation The federation whose members may write.
    constructor(IFederation federation) EIP712("medprov", "1") {
        FEDERATION = federation;
        // fails here, and not at the first record, where there is no federation at this address
        if (federation.federationId() == 0) revert ZeroHash();
    }

    /// @inheritdoc IProvenanceRegistry
    function anchorBatch(bytes32 root, uint32 count, string calldata cid) external {
        _anchorBatch(msg.sender, root, count, cid);
    }

    /// @inheritdoc IProvenanceRegistry
    function anchorBatchFor(
        address owner,
        bytes32 root,
        uint32 count,
        string calldata cid,
        uint256 deadline,
        bytes calldata signature
    ) external {
        bytes32 hash = keccak256(abi.encode(BATCH_TYPEHASH, owner, root, count, keccak256(bytes(cid)), deadline));
        _checkSignature(owner, hash, deadline, signature);
        _anchorBatch(owner, root, count, cid);
    }

    /// @inheritdoc IProvenanceRegistry
    function register(Record calldata record) external returns (bytes32) {
        if (record.owner != msg.sender) revert NotOwner(msg.sender, record.owner);
        return _register(record);
    }

    /// @inheritdoc IProvenanceRegistry
    function registerFor(Record calldata record, uint256 deadline, bytes calldata signature)
        external
        returns (bytes32)
    {
        bytes32 hash = keccak256(abi.encode(REGISTRATION_TYPEHASH, recordIdOf(record), deadline));
        _checkSignature(record.owner, hash, deadline, signature);
        return _register(record);
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
    function verify(address owner, bytes32 root, bytes32 leaf, bytes32[] calldata proof) public view returns (bool) {
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

    function _anchorBatch(address owner, bytes32 root, uint32 count, string calldata cid) private {
        _checkWriter(owner);
        if (root == 0) revert ZeroHash();
        if (count == 0) revert EmptyBatch();
        _checkCid(cid);
        if (_anchors[owner][root].blockNumber != 0) revert RootAlreadyAnchored(root, owner);
        uint48 time = uint48(block.timestamp);
        _anchors[owner][root] = Anchor(SafeCast.toUint48(block.number), time, count, cid);
        emit BatchAnchored(root, owner, count, time, cid);
    }

    function _register(Record calldata record) private returns (bytes32 recordId) {
        _checkWriter(record.owner);
        if (record.key == 0 || record.releasedHash == 0) revert ZeroHash();
        _checkCid(record.evidenceCid);
        if (bytes(record.bundleCid).length != 0) _checkCid(record.bundleCid);
        bytes32 earlier = recordOf[record.releasedHash];
        if (earlier != 0) revert AlreadyRegistered(record.releasedHash, earlier);
        recordId = recordIdOf(record);
        uint48 time = uint48(block.timestamp);
        recordOf[record.releasedHash] = recordId;
        _registrations[recordId] = Registration(record.owner, SafeCast.toUint48(block.number), time);
        emit RecordRegistered(recordId, record.owner, record.key, time, record);
    }

    function _checkSignature(address owner, bytes32 structHash, uint256 deadline, bytes calldata signature)
        private
        view
    {
        // a validator can shift the time by seconds; deadlines are minutes or days away
        // slither-disable-next-line timestamp
        if (block.timestamp > deadline) revert Expired(deadline);
        // the third value only explains the failure
        // slither-disable-next-line unused-return
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecover(_hashTypedDataV4(structHash), signature);
        if (failure != ECDSA.RecoverError.NoError || signer != owner) revert BadSignature(owner);
    }

    function _federation() internal view override returns (IFederation) {
        return FEDERATION;
    }

    function _existence(Claim calldata claim) internal view override returns (bytes32 recordId, uint48 blockNumber) {
        recordId = recordIdOf(claim.record);
        if (claim.root == 0) {
            blockNumber = _registrations[recordId].blockNumber;
        } else if (verify(claim.record.owner, claim.root, recordId, claim.proof)) {
            blockNumber = _anchors[claim.record.owner][claim.root].blockNumber;
        }
    }

    function _checkWriter(address account) internal view override {
        if (FEDERATION.paused()) revert Paused();
        if (!FEDERATION.isMember(account)) revert NotMember(account);
    }

    function _checkCid(string calldata cid) private pure {
        uint256 length = bytes(cid).length;
        if (length == 0 || length > MAX_CID) revert BadCid(length);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IFederation} from "./IFederation.sol";
import {ITitles} from "./ITitles.sol";

/// @title Provenance of medical images.
/// @notice Members anchor the Merkle root of many records in one transaction, or register one record by itself. An
/// anchor is named by its owner and its root: several members may anchor one root, and a record is proved by the anchor
/// of its own owner only. No personal data is stored: only hashes, content identifiers, addresses and times.
interface IProvenanceRegistry is ITitles {
    /// @notice A batch was anchored.
    /// @param root Merkle root over the batch's records.
    /// @param owner The member that anchored it.
    /// @param count Number of records, as the member says.
    /// @param time Time of the block.
    /// @param cid The batch's manifest.
    event BatchAnchored(bytes32 indexed root, address indexed owner, uint32 count, uint48 time, string cid);

    /// @notice A record was registered by itself.
    /// @param recordId Its EIP-712 digest.
    /// @param owner Its owner.
    /// @param key Its record key.
    /// @param time Time of the block.
    /// @param record All of it.
    event RecordRegistered(
        bytes32 indexed recordId, address indexed owner, bytes32 indexed key, uint48 time, Record record
    );

    /// @notice The caller is no active member of the federation.
    error NotMember(address account);
    /// @notice The record names another owner than the caller.
    error NotOwner(address account, address owner);
    /// @notice This member anchored this root before.
    error RootAlreadyAnchored(bytes32 root, address owner);
    /// @notice An image with this released hash was registered before.
    error AlreadyRegistered(bytes32 releasedHash, bytes32 recordId);
    /// @notice A batch has at least one record.
    error EmptyBatch();
    /// @notice A hash that must be given is zero.
    error ZeroHash();
    /// @notice A content identifier is empty or too long.
    error BadCid(uint256 length);
    /// @notice The federation has paused all writing.
    error Paused();
    /// @notice The signature is no longer valid.
    error Expired(uint256 deadline);
    /// @notice The signature is not the owner's, or not over these values.
    error BadSignature(address owner);

    // named after the immutable that answers it
    // slither-disable-start naming-convention
    /// @notice The federation whose members may write.
    function FEDERATION() external view returns (IFederation);
    // slither-disable-end naming-convention

    /// @notice Anchor a batch. Members only; each member can anchor a root once, whoever else has anchored it.
    /// @param root Merkle root over the records' ids, as OpenZeppelin's standard-merkle-tree of ["bytes32"] makes it.
    /// @param count Number of records.
    /// @param cid The batch's manifest.
    function anchorBatch(bytes32 root, uint32 count, string calldata cid) external;

    /// @notice Register one record by itself. Its owner only, who must be a member. The first registration of a
    /// released hash wins.
    /// @param record The record.
    /// @return recordId Its EIP-712 digest.
    function register(Record calldata record) external returns (bytes32 recordId);

    /// @notice Anchor a batch for a member that has signed it (EIP-712 type `BatchAnchor`); anybody may pay.
    /// @param owner The member.
    /// @param root Merkle root over the records' ids.
    /// @param count Number of records.
    /// @param cid The batch's manifest.
    /// @param deadline Last second of the signature's validity.
    /// @param signature The member's, 65 bytes (r, s, v).
    function anchorBatchFor(
        address owner,
        bytes32 root,
        uint32 count,
        string calldata cid,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Register one record for its owner, who has signed that (EIP-712 type `Registration`); anybody may pay.
    /// The signature under the record itself, which manifests hold, does not do.
    /// @param record The record.
    /// @param deadline Last second of the signature's validity.
    /// @param signature The owner's, 65 bytes (r, s, v).
    /// @return recordId Its EIP-712 digest.
    function registerFor(Record calldata record, uint256 deadline, bytes calldata signature)
        external
        returns (bytes32 recordId);

    /// @notice A member's anchor of a root; blockNumber 0 where there is none.
    /// @param owner The member.
    /// @param root Merkle root.
    /// @return blockNumber Block of the anchor.
    /// @return time Time of that block.
    /// @return count Number of records, as the member said.
    /// @return cid The batch's manifest.
    function anchor(address owner, bytes32 root)
        external
        view
        returns (uint48 blockNumber, uint48 time, uint32 count, string memory cid);

    /// @notice Whether a record is in a batch that a member anchored. Whose the record is, the record says: ask for its
    /// owner's anchor.
    /// @param owner The member.
    /// @param root Merkle root.
    /// @param leaf The record's id.
    /// @param proof Siblings from the leaf upwards.
    function verify(address owner, bytes32 root, bytes32 leaf, bytes32[] calldata proof) external view returns (bool);

    /// @notice The registration of a record by itself; blockNumber 0 where there is none.
    /// @param recordId The record's id.
    /// @return owner Its owner.
    /// @return blockNumber Block of the registration.
    /// @return time Time of that block.
    function registration(bytes32 recordId) external view returns (address owner, uint48 blockNumber, uint48 time);

    /// @notice The record that was registered by itself for a released image; zero where there is none.
    /// @param releasedHash Content hash of the released image.
    function recordOf(bytes32 releasedHash) external view returns (bytes32 recordId);

    /// @notice A record's id on this chain and registry (EIP-712).
    /// @param record The record.
    function recordIdOf(Record calldata record) external view returns (bytes32);
}

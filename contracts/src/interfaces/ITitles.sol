// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IRecord} from "./IRecord.sol";

/// @title Who owns a record, who may use it, and whether it still stands.
/// @notice A record is born with the owner that it names. What happens to it later is kept here, from the first change
/// on; every change proves first that the record is anchored or registered by that owner. Owners are followed through
/// their key rotations. All changes are made by active members of the federation while it is not paused.
interface ITitles is IRecord {
    /// @notice Why a record no longer stands.
    enum Reason {
        None,
        Erroneous,
        ConsentWithdrawn,
        Superseded,
        KeyCompromised,
        Other
    }

    /// @notice A record and the proof that it exists.
    /// @param record The record.
    /// @param root Merkle root of its owner's batch; zero for a record that was registered by itself.
    /// @param proof Siblings from the record's leaf to the root; empty for a record that was registered by itself.
    struct Claim {
        Record record;
        bytes32 root;
        bytes32[] proof;
    }

    /// @notice What has become of a record.
    /// @param owner The member that owns it, by the account with which it came to own it; zero before the first change.
    /// @param offered To whom it is offered; zero where it is not.
    /// @param revokedTime Time of the block that revoked it; 0 while it stands.
    /// @param reason Why it was revoked.
    struct Title {
        address owner;
        address offered;
        uint48 revokedTime;
        Reason reason;
    }

    /// @notice Leave to use a record's image.
    /// @param grantedTime Time of the block that granted it; 0 where there is none.
    /// @param expires Last second of its validity.
    /// @param terms Hash of the terms.
    struct Licence {
        uint48 grantedTime;
        uint48 expires;
        bytes32 terms;
    }

    /// @notice A record was offered to another member; to zero: the offer was taken back.
    /// @param recordId The record's id.
    /// @param from Its owner.
    /// @param to The other member.
    event TransferOffered(bytes32 indexed recordId, address indexed from, address indexed to);

    /// @notice A record has another owner.
    /// @param recordId The record's id.
    /// @param from The former owner.
    /// @param to The new owner.
    event OwnershipTransferred(bytes32 indexed recordId, address indexed from, address indexed to);

    /// @notice A licence was granted or prolonged.
    /// @param recordId The record's id.
    /// @param licensee Who may use the image.
    /// @param by The owner.
    /// @param expires Last second of its validity.
    /// @param terms Hash of the terms.
    event LicenceGranted(
        bytes32 indexed recordId, address indexed licensee, address indexed by, uint48 expires, bytes32 terms
    );

    /// @notice A licence was taken back.
    /// @param recordId The record's id.
    /// @param licensee Whose it was.
    /// @param by The owner.
    event LicenceWithdrawn(bytes32 indexed recordId, address indexed licensee, address indexed by);

    /// @notice A record was revoked, for good.
    /// @param recordId The record's id.
    /// @param by Its owner.
    /// @param reason Why.
    /// @param note Hash of an explanation kept elsewhere; may be zero.
    event RecordRevoked(bytes32 indexed recordId, address indexed by, Reason reason, bytes32 note);

    /// @notice The owner of an earlier record of the same image or mark contests a later one.
    /// @param later Id of the record that is contested.
    /// @param earlier Id of the earlier record.
    /// @param by Owner of the earlier record.
    event Disputed(bytes32 indexed later, bytes32 indexed earlier, address indexed by);

    /// @notice Neither an anchor nor a registration of its owner proves this record.
    error Unproved(bytes32 recordId);
    /// @notice The account does not own the record.
    error NotTitleOwner(bytes32 recordId, address account);
    /// @notice The record was not offered to this account.
    error NotOffered(bytes32 recordId, address account);
    /// @notice Ownership cannot go to this account.
    error BadRecipient(address account);
    /// @notice The record was revoked before.
    error Revoked(bytes32 recordId);
    /// @notice A revocation needs a reason.
    error NoReason();
    /// @notice A licence must expire in the future.
    error BadExpiry(uint48 expires);
    /// @notice There is no such licence.
    error NoLicence(bytes32 recordId, address licensee);
    /// @notice The two records share neither mark nor image.
    error Unrelated(bytes32 first, bytes32 second);
    /// @notice The record is not earlier than the other one.
    error NotEarlier(bytes32 recordId, bytes32 other);

    /// @notice Offer a record to another member; zero takes the offer back. Owner only.
    /// @param claim The record and its proof.
    /// @param to The other member.
    function offerTransfer(Claim calldata claim, address to) external;

    /// @notice Take over a record that was offered to the caller.
    /// @param recordId The record's id.
    function acceptTransfer(bytes32 recordId) external;

    /// @notice Let somebody use a record's image; a second grant replaces the first. Owner only.
    /// @param claim The record and its proof.
    /// @param licensee Any address.
    /// @param expires Last second of its validity.
    /// @param terms Hash of the terms.
    function grantLicence(Claim calldata claim, address licensee, uint48 expires, bytes32 terms) external;

    /// @notice Take a licence back. Owner only.
    /// @param recordId The record's id.
    /// @param licensee Whose licence.
    function withdrawLicence(bytes32 recordId, address licensee) external;

    /// @notice Revoke a record for good: it stays on the chain, and everybody sees why it no longer stands. Owner only.
    /// @param claim The record and its proof.
    /// @param reason Why; not None.
    /// @param note Hash of an explanation kept elsewhere; may be zero.
    function revoke(Claim calldata claim, Reason reason, bytes32 note) external;

    /// @notice Contest a later record of the same mark or image. Owner of the earlier record only. The record that was
    /// anchored in the earlier block is in the right; that of the earliest block is kept where several contest one.
    /// @param earlier The caller's record and its proof.
    /// @param later The other record and its proof.
    function dispute(Claim calldata earlier, Claim calldata later) external;

    /// @notice What has become of a record; all zero before the first change.
    /// @param recordId The record's id.
    function title(bytes32 recordId) external view returns (Title memory);

    /// @notice The present account of a record's owner; zero before the first change.
    /// @param recordId The record's id.
    function ownerOf(bytes32 recordId) external view returns (address);

    /// @notice A licence, whether valid or not.
    /// @param recordId The record's id.
    /// @param licensee Whose licence.
    function licence(bytes32 recordId, address licensee) external view returns (Licence memory);

    /// @notice Whether a licence is valid now: granted, not expired, and the record not revoked.
    /// @param recordId The record's id.
    /// @param licensee Whose licence.
    function isLicensed(bytes32 recordId, address licensee) external view returns (bool);

    /// @notice The earliest record that contests another one; zero where none does.
    /// @param recordId Id of the record that may be contested.
    function contestedBy(bytes32 recordId) external view returns (bytes32 earlier);
}

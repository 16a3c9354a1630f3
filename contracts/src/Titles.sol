// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IFederation} from "./interfaces/IFederation.sol";
import {ITitles} from "./interfaces/ITitles.sol";

/// @title Titles
/// @notice See {ITitles}. The registry says which records exist and since when.
abstract contract Titles is ITitles {
    struct Dispute {
        bytes32 earlier;
        uint48 blockNumber;
    }

    mapping(bytes32 recordId => Title) private _titles;
    mapping(bytes32 recordId => mapping(address licensee => Licence)) private _licences;
    mapping(bytes32 recordId => Dispute) private _disputes;

    modifier onlyWriter() {
        _checkWriter(msg.sender);
        _;
    }

    /// @inheritdoc ITitles
    function offerTransfer(Claim calldata claim, address to) external onlyWriter {
        (bytes32 id,, Title storage held) = _owned(claim);
        if (to != address(0) && (to == msg.sender || !_federation().isMember(to))) revert BadRecipient(to);
        held.offered = to;
        emit TransferOffered(id, msg.sender, to);
    }

    /// @inheritdoc ITitles
    function acceptTransfer(bytes32 recordId) external onlyWriter {
        Title storage held = _titles[recordId];
        if (held.revokedTime != 0) revert Revoked(recordId);
        if (held.offered == address(0) || _federation().currentOf(held.offered) != msg.sender) {
            revert NotOffered(recordId, msg.sender);
        }
        address from = _federation().currentOf(held.owner);
        held.owner = msg.sender;
        held.offered = address(0);
        emit OwnershipTransferred(recordId, from, msg.sender);
    }

    /// @inheritdoc ITitles
    function grantLicence(Claim calldata claim, address licensee, uint48 expires, bytes32 terms) external onlyWriter {
        (bytes32 id,,) = _owned(claim);
        if (licensee == address(0)) revert BadRecipient(licensee);
        // a validator can shift the time by seconds, which a licence of days does not notice
        // slither-disable-next-line timestamp
        if (expires <= block.timestamp) revert BadExpiry(expires);
        _licences[id][licensee] = Licence(uint48(block.timestamp), expires, terms);
        emit LicenceGranted(id, licensee, msg.sender, expires, terms);
    }

    /// @inheritdoc ITitles
    function withdrawLicence(bytes32 recordId, address licensee) external onlyWriter {
        if (ownerOf(recordId) != msg.sender) revert NotTitleOwner(recordId, msg.sender);
        if (_licences[recordId][licensee].grantedTime == 0) revert NoLicence(recordId, licensee);
        delete _licences[recordId][licensee];
        emit LicenceWithdrawn(recordId, licensee, msg.sender);
    }

    /// @inheritdoc ITitles
    function revoke(Claim calldata claim, Reason reason, bytes32 note) external onlyWriter {
        if (reason == Reason.None) revert NoReason();
        (bytes32 id,, Title storage held) = _owned(claim);
        held.revokedTime = uint48(block.timestamp);
        held.reason = reason;
        held.offered = address(0);
        emit RecordRevoked(id, msg.sender, reason, note);
    }

    /// @inheritdoc ITitles
    function dispute(Claim calldata earlier, Claim calldata later) external onlyWriter {
        (bytes32 mine, uint48 myBlock,) = _owned(earlier);
        (bytes32 theirs, uint48 theirBlock) = _proved(later);
        Record calldata a = earlier.record;
        Record calldata b = later.record;
        bool related = a.key == b.key || a.markedHash == b.markedHash || a.releasedHash == b.releasedHash;
        if (!related || mine == theirs) revert Unrelated(mine, theirs);
        Dispute storage kept = _disputes[theirs];
        if (myBlock >= theirBlock || (kept.blockNumber != 0 && kept.blockNumber <= myBlock)) {
            revert NotEarlier(mine, kept.blockNumber == 0 ? theirs : kept.earlier);
        }
        _disputes[theirs] = Dispute(mine, myBlock);
        emit Disputed(theirs, mine, msg.sender);
    }

    /// @inheritdoc ITitles
    function title(bytes32 recordId) external view returns (Title memory) {
        return _titles[recordId];
    }

    /// @inheritdoc ITitles
    function licence(bytes32 recordId, address licensee) external view returns (Licence memory) {
        return _licences[recordId][licensee];
    }

    /// @inheritdoc ITitles
    function isLicensed(bytes32 recordId, address licensee) external view returns (bool) {
        Licence storage found = _licences[recordId][licensee];
        // as in grantLicence
        // slither-disable-next-line timestamp
        return found.grantedTime != 0 && found.expires >= block.timestamp && _titles[recordId].revokedTime == 0;
    }

    /// @inheritdoc ITitles
    function contestedBy(bytes32 recordId) external view returns (bytes32) {
        return _disputes[recordId].earlier;
    }

    /// @inheritdoc ITitles
    function ownerOf(bytes32 recordId) public view returns (address) {
        address owner = _titles[recordId].owner;
        return owner == address(0) ? owner : _federation().currentOf(owner);
    }

    /// @dev The federation whose members own records.
    function _federation() internal view virtual returns (IFederation);

    /// @dev Id of a record, and the block in which its owner anchored or registered it; 0 where neither is proved.
    function _existence(Claim calldata claim) internal view virtual returns (bytes32 recordId, uint48 blockNumber);

    /// @dev Refuses everybody but active members, and all while the federation is paused.
    function _checkWriter(address account) internal view virtual;

    function _proved(Claim calldata claim) private view returns (bytes32 recordId, uint48 blockNumber) {
        (recordId, blockNumber) = _existence(claim);
        if (blockNumber == 0) revert Unproved(recordId);
    }

    /// @dev The title of a record that the caller owns and that stands; made at the first change.
    function _owned(Claim calldata claim) private returns (bytes32 recordId, uint48 blockNumber, Title storage held) {
        (recordId, blockNumber) = _proved(claim);
        held = _titles[recordId];
        if (held.owner == address(0)) held.owner = claim.record.owner;
        if (_federation().currentOf(held.owner) != msg.sender) revert NotTitleOwner(recordId, msg.sender);
        if (held.revokedTime != 0) revert Revoked(recordId);
    }
}

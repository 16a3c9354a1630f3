// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IFederation} from "./interfaces/IFederation.sol";

/// @title Federation
/// @notice See {IFederation}. There is no owner and no administrator: who deploys it has no rights afterwards.
contract Federation is IFederation {
    using Checkpoints for Checkpoints.Trace208;

    /// @notice Longest content identifier in bytes; a CIDv1 with SHA-256 in base32 has 59.
    uint256 public constant MAX_CID = 128;
    /// @notice Largest number of founding members.
    uint256 public constant MAX_FOUNDERS = 64;

    /// @inheritdoc IFederation
    bytes32 public immutable federationId;
    /// @inheritdoc IFederation
    uint256 public threshold;
    /// @inheritdoc IFederation
    uint256 public activeCount;
    /// @inheritdoc IFederation
    uint64 public lastRound;
    /// @inheritdoc IFederation
    bool public paused;

    /// @dev Part of every motion's id: adding one closes all open motions and approvals.
    uint256 private _epoch;
    address[] private _accounts;
    mapping(address account => Member) private _members;
    mapping(address account => Checkpoints.Trace208) private _history;
    mapping(bytes32 nameHash => address) private _names;
    mapping(bytes32 motion => uint256) private _votes;
    /// @dev By the voter's first account: a rotated key must not vote twice.
    mapping(bytes32 motion => mapping(address first => bool)) private _voted;
    mapping(address account => address first) private _first;
    mapping(address first => address account) private _latest;
    mapping(address account => address next) private _offered;
    mapping(uint64 number => Round) private _rounds;
    mapping(bytes32 modelHash => Model) private _models;

    modifier onlyMember() {
        if (!isMember(msg.sender)) revert NotMember(msg.sender);
        _;
    }

    modifier whenNotPaused() {
        if (paused) revert Paused();
        _;
    }

    /// @notice Found a federation.
    /// @param id Its name among federations, drawn at random.
    /// @param founders The first members, 1 to 64.
    /// @param k Number of members that must agree.
    constructor(bytes32 id, Founder[] memory founders, uint256 k) {
        if (id == 0) revert ZeroHash();
        if (founders.length == 0 || founders.length > MAX_FOUNDERS) revert BadFounders(founders.length);
        federationId = id;
        for (uint256 i = 0; i < founders.length; ++i) {
            _join(founders[i].account, founders[i].nameHash, founders[i].readerKey);
        }
        _setThreshold(k);
        emit FederationCreated(id, k);
    }

    /// @inheritdoc IFederation
    function memberCount() external view returns (uint256) {
        return _accounts.length;
    }

    /// @inheritdoc IFederation
    function memberByIndex(uint256 index) external view returns (Member memory) {
        return _members[_accounts[index]];
    }

    /// @inheritdoc IFederation
    function member(address account) external view returns (Member memory) {
        return _members[account];
    }

    /// @inheritdoc IFederation
    function isMember(address account) public view returns (bool) {
        // an enum: nobody can send a status, as one can send ether past a check of a balance
        // slither-disable-next-line incorrect-equality
        return _members[account].status == Status.Active;
    }

    /// @inheritdoc IFederation
    function isMemberAt(address account, uint256 blockNumber) external view returns (bool) {
        if (blockNumber > block.number) revert FutureBlock(blockNumber);
        return _history[account].upperLookup(SafeCast.toUint48(blockNumber)) == uint208(Status.Active);
    }

    /// @inheritdoc IFederation
    function vote(Kind kind, address account, bytes calldata data)
        external
        onlyMember
        returns (bytes32 motion, bool carried)
    {
        motion = _motion(kind, account, data);
        uint256 count = _count(motion);
        emit VoteCast(motion, msg.sender, kind, account, data, count);
        _check(kind, account, data);
        carried = count >= threshold;
        if (carried) _carry(kind, account, data);
    }

    /// @inheritdoc IFederation
    function votes(Kind kind, address account, bytes calldata data) external view returns (uint256) {
        return _votes[_motion(kind, account, data)];
    }

    /// @inheritdoc IFederation
    function setReaderKey(bytes32 readerKey) external onlyMember {
        if (readerKey == 0) revert ZeroHash();
        _members[msg.sender].readerKey = readerKey;
        emit ReaderKeyChanged(msg.sender, readerKey);
    }

    /// @inheritdoc IFederation
    function offerKey(address next) external onlyMember {
        if (next != address(0)) _checkUnused(next);
        _offered[msg.sender] = next;
        emit KeyOffered(msg.sender, next);
    }

    /// @inheritdoc IFederation
    function acceptKey(address account) external {
        if (_offered[account] != msg.sender) revert NotOffered(account, msg.sender);
        if (!isMember(account)) revert NotMember(account);
        _checkUnused(msg.sender);
        _rotate(account, msg.sender);
    }

    /// @inheritdoc IFederation
    function currentOf(address account) external view returns (address) {
        address first = _first[account];
        return first == address(0) ? account : _latest[first];
    }

    /// @inheritdoc IFederation
    function anchorRound(
        uint64 number,
        bytes32 modelHash,
        string calldata cid,
        bytes32 updatesRoot,
        bytes32 metricsHash
    ) external onlyMember whenNotPaused {
        // a gap would let one member use up all numbers at once
        if (number != lastRound + 1) revert RoundNotNext(number, lastRound);
        if (modelHash == 0 || updatesRoot == 0 || metricsHash == 0) revert ZeroHash();
        _checkCid(cid);
        uint48 time = uint48(block.timestamp);
        lastRound = number;
        _rounds[number] =
            Round(modelHash, updatesRoot, metricsHash, msg.sender, SafeCast.toUint48(block.number), time, cid);
        emit RoundAnchored(number, modelHash, msg.sender, updatesRoot, metricsHash, time, cid);
    }

    /// @inheritdoc IFederation
    function round(uint64 number) external view returns (Round memory) {
        return _rounds[number];
    }

    /// @inheritdoc IFederation
    function releaseModel(bytes32 modelHash, string calldata cid)
        external
        onlyMember
        whenNotPaused
        returns (bool released)
    {
        if (modelHash == 0) revert ZeroHash();
        if (_models[modelHash].blockNumber != 0) revert AlreadyReleased(modelHash);
        _checkCid(cid);
        uint256 approvals = _count(keccak256(abi.encode("model", modelHash, cid, _epoch)));
        emit ModelApproved(modelHash, msg.sender, cid, approvals);
        released = approvals >= threshold;
        if (released) {
            uint48 time = uint48(block.timestamp);
            _models[modelHash] = Model(SafeCast.toUint48(block.number), time, cid);
            emit ModelReleased(modelHash, time, cid);
        }
    }

    /// @inheritdoc IFederation
    function isReleased(bytes32 modelHash) external view returns (bool) {
        return _models[modelHash].blockNumber != 0;
    }

    /// @inheritdoc IFederation
    function model(bytes32 modelHash) external view returns (Model memory) {
        return _models[modelHash];
    }

    function _motion(Kind kind, address account, bytes calldata data) private view returns (bytes32) {
        return keccak256(abi.encode("motion", kind, account, data, _epoch));
    }

    /// @dev Counts the caller's vote once.
    function _count(bytes32 motion) private returns (uint256) {
        address voter = _first[msg.sender];
        if (_voted[motion][voter]) revert AlreadyVoted(motion, msg.sender);
        _voted[motion][voter] = true;
        return ++_votes[motion];
    }

    /// @dev Refuses a motion that could not be carried out, at the first vote already.
    // one branch for each kind of motion, side by side; the equalities are of enums and not of balances
    // slither-disable-start cyclomatic-complexity,incorrect-equality
    function _check(Kind kind, address account, bytes calldata data) private view {
        if (kind == Kind.Join) {
            (bytes32 nameHash, bytes32 readerKey) = _joinArguments(data);
            _checkJoin(account, nameHash, readerKey);
        } else if (kind == Kind.Threshold) {
            if (account != address(0)) revert BadMotion();
            _checkThreshold(_thresholdArgument(data), activeCount);
        } else if (kind == Kind.Pause || kind == Kind.Unpause) {
            if (account != address(0) || data.length != 0) revert BadMotion();
            if (paused == (kind == Kind.Pause)) revert PauseUnchanged(paused);
        } else if (kind == Kind.Rotate) {
            _checkUnused(_rotateArgument(data));
            Status standing = _members[account].status;
            if (standing != Status.Active && standing != Status.Suspended) revert WrongStatus(account, standing);
        } else {
            if (data.length != 0) revert BadMotion();
            Status status = _members[account].status;
            bool fits = kind == Kind.Resume
                ? status == Status.Suspended
                : status == Status.Active || (kind == Kind.Leave && status == Status.Suspended);
            if (!fits) revert WrongStatus(account, status);
            if (status == Status.Active) _checkThreshold(threshold, activeCount - 1);
        }
    }
    // slither-disable-end cyclomatic-complexity,incorrect-equality

    function _carry(Kind kind, address account, bytes calldata data) private {
        ++_epoch;
        if (kind == Kind.Join) {
            (bytes32 nameHash, bytes32 readerKey) = _joinArguments(data);
            _join(account, nameHash, readerKey);
        } else if (kind == Kind.Threshold) {
            _setThreshold(_thresholdArgument(data));
        } else if (kind == Kind.Pause || kind == Kind.Unpause) {
            paused = kind == Kind.Pause;
            emit PausedChanged(paused);
        } else if (kind == Kind.Rotate) {
            _rotate(account, _rotateArgument(data));
        } else if (kind == Kind.Leave) {
            delete _names[_members[account].nameHash];
            _setStatus(account, Status.Left);
        } else {
            _setStatus(account, kind == Kind.Suspend ? Status.Suspended : Status.Active);
        }
    }

    function _join(address account, bytes32 nameHash, bytes32 readerKey) private {
        _checkJoin(account, nameHash, readerKey);
        Member storage entry = _members[account];
        if (entry.status == Status.None) {
            _accounts.push(account);
            entry.account = account;
            _first[account] = account;
            _latest[account] = account;
        }
        entry.nameHash = nameHash;
        entry.readerKey = readerKey;
        entry.joinedBlock = SafeCast.toUint48(block.number);
        _names[nameHash] = account;
        _setStatus(account, Status.Active);
        emit ReaderKeyChanged(account, readerKey);
    }

    function _rotate(address account, address next) private {
        Member storage former = _members[account];
        Status status = former.status;
        address first = _first[account];
        _accounts.push(next);
        _members[next] = Member(next, former.nameHash, former.readerKey, Status.None, SafeCast.toUint48(block.number));
        _names[former.nameHash] = next;
        _first[next] = first;
        _latest[first] = next;
        delete _offered[account];
        _setStatus(account, Status.Rotated);
        _setStatus(next, status);
        emit ReaderKeyChanged(next, former.readerKey);
        emit KeyRotated(account, next);
    }

    function _setStatus(address account, Status status) private {
        Member storage entry = _members[account];
        // the only loop that comes here is the constructor's, over at most 64 founders
        // slither-disable-start costly-loop
        if (entry.status == Status.Active) --activeCount;
        if (status == Status.Active) ++activeCount;
        // slither-disable-end costly-loop
        entry.status = status;
        // it returns the former and the new value, and both are known here
        // slither-disable-next-line unused-return
        _history[account].push(SafeCast.toUint48(block.number), uint208(status));
        emit StatusChanged(account, status, entry.nameHash);
    }

    function _setThreshold(uint256 k) private {
        _checkThreshold(k, activeCount);
        threshold = k;
        emit ThresholdChanged(k);
    }

    function _checkJoin(address account, bytes32 nameHash, bytes32 readerKey) private view {
        if (account == address(0)) revert BadMotion();
        if (nameHash == 0 || readerKey == 0) revert ZeroHash();
        Status status = _members[account].status;
        // enums, as in isMember
        // slither-disable-start incorrect-equality
        if (status == Status.Rotated) revert AccountUsed(account);
        if (status == Status.Active || status == Status.Suspended) revert AlreadyMember(account);
        // slither-disable-end incorrect-equality
        if (_names[nameHash] != address(0)) revert NameTaken(nameHash);
    }

    function _checkUnused(address account) private view {
        if (account == address(0) || _first[account] != address(0)) revert AccountUsed(account);
    }

    function _checkThreshold(uint256 k, uint256 active) private pure {
        if (k == 0 || k > active) revert BadThreshold(k, active);
    }

    function _checkCid(string calldata cid) private pure {
        uint256 length = bytes(cid).length;
        if (length == 0 || length > MAX_CID) revert BadCid(length);
    }

    function _joinArguments(bytes calldata data) private pure returns (bytes32 nameHash, bytes32 readerKey) {
        if (data.length != 64) revert BadMotion();
        return abi.decode(data, (bytes32, bytes32));
    }

    function _thresholdArgument(bytes calldata data) private pure returns (uint256) {
        if (data.length != 32) revert BadMotion();
        return abi.decode(data, (uint256));
    }

    function _rotateArgument(bytes calldata data) private pure returns (address) {
        if (data.length != 32) revert BadMotion();
        return abi.decode(data, (address));
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title The hospitals of a consortium, their training rounds and their released models.
/// @notice Everything that changes is decided by members: single members anchor rounds, k equal votes of active members
/// change the membership, replace lost keys, pause all writing and release models. A motion that is carried closes all
/// open votes, so that only those count that belong to the members of today.
interface IFederation {
    /// @notice Standing of an address.
    enum Status {
        None,
        Active,
        Suspended,
        Left,
        Rotated
    }

    /// @notice What members vote on.
    enum Kind {
        Join,
        Leave,
        Suspend,
        Resume,
        Threshold,
        Rotate,
        Pause,
        Unpause
    }

    /// @notice A hospital.
    /// @param account Its chain address.
    /// @param nameHash Keccak-256 of its name.
    /// @param readerKey Its X25519 public key (RFC 7748), for bundles sealed to it.
    /// @param status Its standing now.
    /// @param joinedBlock Block in which it joined, the last time if it joined twice.
    struct Member {
        address account;
        bytes32 nameHash;
        bytes32 readerKey;
        Status status;
        uint48 joinedBlock;
    }

    /// @notice A hospital as the constructor takes it.
    /// @param account Its chain address.
    /// @param nameHash Keccak-256 of its name.
    /// @param readerKey Its X25519 public key.
    struct Founder {
        address account;
        bytes32 nameHash;
        bytes32 readerKey;
    }

    /// @notice An anchored training round.
    /// @param modelHash SHA-256 of the aggregated weights.
    /// @param updatesRoot Merkle root of the participants' update hashes.
    /// @param metricsHash Hash of the round's metrics.
    /// @param by The member that anchored it.
    /// @param blockNumber Block in which it was anchored; 0 means that there is no such round.
    /// @param time Time of that block.
    /// @param cid Where the weights are.
    struct Round {
        bytes32 modelHash;
        bytes32 updatesRoot;
        bytes32 metricsHash;
        address by;
        uint48 blockNumber;
        uint48 time;
        string cid;
    }

    /// @notice A released model version.
    /// @param blockNumber Block of the release; 0 means not released.
    /// @param time Time of that block.
    /// @param cid Where the weights are.
    struct Model {
        uint48 blockNumber;
        uint48 time;
        string cid;
    }

    /// @notice The federation was made.
    /// @param federationId Its name among federations.
    /// @param threshold Number of members that must agree.
    event FederationCreated(bytes32 indexed federationId, uint256 threshold);

    /// @notice A member voted on a motion.
    /// @param motion Id of the motion.
    /// @param voter The member.
    /// @param kind What it is about.
    /// @param account Whom it is about; zero for a threshold.
    /// @param data Arguments, see {vote}.
    /// @param votes Votes so far.
    event VoteCast(
        bytes32 indexed motion, address indexed voter, Kind kind, address indexed account, bytes data, uint256 votes
    );

    /// @notice A member's standing changed.
    /// @param account The member.
    /// @param status The new standing.
    /// @param nameHash Keccak-256 of its name.
    event StatusChanged(address indexed account, Status status, bytes32 indexed nameHash);

    /// @notice A member's reader key was set.
    /// @param account The member.
    /// @param readerKey The X25519 public key.
    event ReaderKeyChanged(address indexed account, bytes32 readerKey);

    /// @notice The number of members that must agree changed.
    /// @param threshold The new number.
    event ThresholdChanged(uint256 threshold);

    /// @notice A member offers to go on with another account; zero takes the offer back.
    /// @param account The member.
    /// @param next The other account.
    event KeyOffered(address indexed account, address indexed next);

    /// @notice A member goes on with another account. What the former one did keeps its place in the history.
    /// @param account The former account.
    /// @param next The new one.
    event KeyRotated(address indexed account, address indexed next);

    /// @notice Writing was stopped or allowed again.
    /// @param paused True where it was stopped.
    event PausedChanged(bool paused);

    /// @notice A training round was anchored.
    /// @param number Number of the round.
    /// @param modelHash SHA-256 of the aggregated weights.
    /// @param by The member that anchored it.
    /// @param updatesRoot Merkle root of the participants' update hashes.
    /// @param metricsHash Hash of the round's metrics.
    /// @param time Time of the block.
    /// @param cid Where the weights are.
    event RoundAnchored(
        uint64 indexed number,
        bytes32 indexed modelHash,
        address indexed by,
        bytes32 updatesRoot,
        bytes32 metricsHash,
        uint48 time,
        string cid
    );

    /// @notice A member approved a model version.
    /// @param modelHash SHA-256 of the weights file.
    /// @param by The member.
    /// @param cid Where the weights are.
    /// @param approvals Approvals so far.
    event ModelApproved(bytes32 indexed modelHash, address indexed by, string cid, uint256 approvals);

    /// @notice A model version was released.
    /// @param modelHash SHA-256 of the weights file.
    /// @param time Time of the block.
    /// @param cid Where the weights are.
    event ModelReleased(bytes32 indexed modelHash, uint48 time, string cid);

    /// @notice The caller is no active member.
    error NotMember(address account);
    /// @notice The caller has voted for this already.
    error AlreadyVoted(bytes32 motion, address account);
    /// @notice The account is a member already.
    error AlreadyMember(address account);
    /// @notice Another member has this name.
    error NameTaken(bytes32 nameHash);
    /// @notice The account's standing does not allow this.
    error WrongStatus(address account, Status status);
    /// @notice k must lie between 1 and the number of active members.
    error BadThreshold(uint256 threshold, uint256 active);
    /// @notice Address or data do not fit this kind of motion.
    error BadMotion();
    /// @notice A federation starts with 1 to 64 members.
    error BadFounders(uint256 count);
    /// @notice A hash or key is zero.
    error ZeroHash();
    /// @notice A content identifier is empty or too long.
    error BadCid(uint256 length);
    /// @notice Rounds are anchored one after the other, without a gap.
    error RoundNotNext(uint64 number, uint64 last);
    /// @notice The model version is released already.
    error AlreadyReleased(bytes32 modelHash);
    /// @notice The block is not there yet.
    error FutureBlock(uint256 blockNumber);
    /// @notice A member goes on with an account that was never a member's.
    error AccountUsed(address account);
    /// @notice The account was not offered to the caller.
    error NotOffered(address account, address next);
    /// @notice The federation has paused all writing.
    error Paused();
    /// @notice The federation is paused, or is not, already.
    error PauseUnchanged(bool paused);

    /// @notice The federation's name among federations; salt of the evidence keys.
    function federationId() external view returns (bytes32);

    /// @notice Number of active members that must agree.
    function threshold() external view returns (uint256);

    /// @notice Number of active members.
    function activeCount() external view returns (uint256);

    /// @notice Number of all accounts that are or were members; indices for {memberByIndex} are below it.
    function memberCount() external view returns (uint256);

    /// @notice A member of any standing, in the order of first joining.
    /// @param index From 0 to {memberCount} - 1.
    function memberByIndex(uint256 index) external view returns (Member memory);

    /// @notice What is known about an address; status None for a stranger.
    /// @param account Any address.
    function member(address account) external view returns (Member memory);

    /// @notice Whether an address is an active member now.
    /// @param account Any address.
    function isMember(address account) external view returns (bool);

    /// @notice Whether an address was an active member at the end of a block.
    /// @param account Any address.
    /// @param blockNumber A block that exists.
    function isMemberAt(address account, uint256 blockNumber) external view returns (bool);

    /// @notice Vote for a motion; the first vote opens it, the k-th carries it out. Members only.
    /// @param kind What the motion is about.
    /// @param account Whom it is about; zero for Threshold, Pause and Unpause.
    /// @param data Join: abi.encode(nameHash, readerKey). Threshold: abi.encode(uint256 k). Rotate, for a member that
    /// has lost its key: abi.encode(address next). Empty for the others.
    /// @return motion Id of the motion.
    /// @return carried True where this vote carried it out.
    function vote(Kind kind, address account, bytes calldata data) external returns (bytes32 motion, bool carried);

    /// @notice Number of votes that an open motion has; 0 for one that is unknown, closed or carried.
    /// @param kind As in {vote}.
    /// @param account As in {vote}.
    /// @param data As in {vote}.
    function votes(Kind kind, address account, bytes calldata data) external view returns (uint256);

    /// @notice Replace one's own reader key. Members only.
    /// @param readerKey X25519 public key.
    function setReaderKey(bytes32 readerKey) external;

    /// @notice Offer to go on with another account, which must accept; zero takes the offer back. Members only.
    /// @param next An account that was never a member's.
    function offerKey(address next) external;

    /// @notice Go on as a member with the caller's account. Votes, standing, name and reader key go over; records stay
    /// with the account that signed them, and {currentOf} leads from it to the caller.
    /// @param account The member's present account, which has offered that.
    function acceptKey(address account) external;

    /// @notice The account with which a member goes on; the account itself where it was never rotated.
    /// @param account Any account that a member has or had.
    function currentOf(address account) external view returns (address);

    /// @notice Whether all writing is paused, here and in the registries of this federation.
    function paused() external view returns (bool);

    /// @notice Anchor a finished training round. Members only.
    /// @param number {lastRound} + 1.
    /// @param modelHash SHA-256 of the aggregated weights.
    /// @param cid Where the weights are.
    /// @param updatesRoot Merkle root of the participants' update hashes.
    /// @param metricsHash Hash of the round's metrics.
    function anchorRound(
        uint64 number,
        bytes32 modelHash,
        string calldata cid,
        bytes32 updatesRoot,
        bytes32 metricsHash
    ) external;

    /// @notice Number of the newest round; 0 before the first.
    function lastRound() external view returns (uint64);

    /// @notice An anchored round; blockNumber 0 where there is none.
    /// @param number Number of the round.
    function round(uint64 number) external view returns (Round memory);

    /// @notice Approve a model version; the k-th approval of the same hash and CID releases it. Members only.
    /// @param modelHash SHA-256 of the weights file.
    /// @param cid Where the weights are.
    /// @return released True where this approval released it.
    function releaseModel(bytes32 modelHash, string calldata cid) external returns (bool released);

    /// @notice Whether a model version is released.
    /// @param modelHash SHA-256 of the weights file.
    function isReleased(bytes32 modelHash) external view returns (bool);

    /// @notice A released model version; blockNumber 0 where there is none.
    /// @param modelHash SHA-256 of the weights file.
    function model(bytes32 modelHash) external view returns (Model memory);
}

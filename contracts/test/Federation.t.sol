// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Harness} from "./Harness.sol";
import {IFederation} from "../src/interfaces/IFederation.sol";

contract FederationTest is Harness {
    function setUp() public {
        found();
    }

    address private immutable NEXT = VM.addr(77);

    function rotate(address from, address to) private {
        VM.prank(from);
        federation.offerKey(to);
        VM.prank(to);
        federation.acceptKey(from);
    }

    // Rotation.

    function test_aRotatedKeyKeepsTheHistory() public {
        VM.roll(20);
        rotate(A, NEXT);
        VM.roll(30);
        check(federation.isMember(NEXT) && !federation.isMember(A), "the new key is the member");
        check(federation.isMemberAt(A, 19) && !federation.isMemberAt(A, 20), "the old one was, until then");
        check(!federation.isMemberAt(NEXT, 19) && federation.isMemberAt(NEXT, 20), "the new one is, from then on");
        check(federation.currentOf(A) == NEXT && federation.currentOf(NEXT) == NEXT, "the way leads on");
        check(federation.activeCount() == 3 && federation.memberCount() == 4, "nobody was added");
        IFederation.Member memory now_ = federation.member(NEXT);
        check(now_.nameHash == keccak256("a") && now_.readerKey == keccak256("key a"), "name and reader key go over");
        check(federation.member(A).status == IFederation.Status.Rotated, "and it says so");
    }

    function testFuzz_theWayLeadsToTheLastKey(uint8 steps) public {
        address at = A;
        for (uint256 i = 0; i < uint256(steps) % 8; ++i) {
            address next = VM.addr(1000 + i);
            rotate(at, next);
            at = next;
        }
        check(federation.currentOf(A) == at && federation.isMember(at), "the last one");
    }

    function test_aRotatedKeyVotesOnce() public {
        bytes memory data = abi.encode(uint256(1));
        VM.prank(A);
        (bytes32 motion,) = federation.vote(IFederation.Kind.Threshold, address(0), data);
        rotate(A, NEXT);
        VM.prank(NEXT);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AlreadyVoted.selector, motion, NEXT));
        federation.vote(IFederation.Kind.Threshold, address(0), data);
        check(federation.votes(IFederation.Kind.Threshold, address(0), data) == 1, "one vote");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NotMember.selector, A));
        federation.vote(IFederation.Kind.Threshold, address(0), data);
    }

    function test_nextKeysAreUnused() public {
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AccountUsed.selector, B));
        federation.offerKey(B);
        rotate(A, NEXT);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AccountUsed.selector, A));
        federation.offerKey(A);
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AccountUsed.selector, A));
        federation.vote(IFederation.Kind.Join, A, abi.encode(keccak256("new"), keccak256("key")));
    }

    function test_anAccountThatWasUsedMeanwhileIsRefused() public {
        VM.prank(A);
        federation.offerKey(NEXT);
        VM.prank(B);
        federation.offerKey(NEXT);
        VM.prank(NEXT);
        federation.acceptKey(A);
        VM.prank(NEXT);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AccountUsed.selector, NEXT));
        federation.acceptKey(B);
    }

    function test_bothSidesMustWantIt() public {
        VM.prank(NEXT);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NotOffered.selector, A, NEXT));
        federation.acceptKey(A);
        VM.prank(A);
        federation.offerKey(NEXT);
        VM.prank(STRANGER);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NotOffered.selector, A, STRANGER));
        federation.acceptKey(A);
        VM.prank(A);
        federation.offerKey(address(0));
        VM.prank(NEXT);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NotOffered.selector, A, NEXT));
        federation.acceptKey(A);
    }

    function test_theSuspendedDoNotRotateByThemselves() public {
        VM.prank(C);
        federation.offerKey(NEXT);
        agree(IFederation.Kind.Suspend, C, "");
        VM.prank(NEXT);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NotMember.selector, C));
        federation.acceptKey(C);
    }

    function test_aLostKeyIsReplacedByVote() public {
        agree(IFederation.Kind.Rotate, C, abi.encode(NEXT));
        check(federation.currentOf(C) == NEXT && federation.isMember(NEXT) && !federation.isMember(C), "replaced");
        agree(IFederation.Kind.Suspend, NEXT, "");
        agree(IFederation.Kind.Rotate, NEXT, abi.encode(VM.addr(78)));
        check(federation.member(VM.addr(78)).status == IFederation.Status.Suspended, "standing goes over");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.WrongStatus.selector, STRANGER, IFederation.Status.None));
        federation.vote(IFederation.Kind.Rotate, STRANGER, abi.encode(VM.addr(79)));
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.BadMotion.selector));
        federation.vote(IFederation.Kind.Rotate, B, "");
    }

    // Pause.

    function test_pausingIsDecidedTogether() public {
        VM.prank(A);
        federation.vote(IFederation.Kind.Pause, address(0), "");
        check(!federation.paused(), "one vote does not do");
        VM.prank(C);
        federation.vote(IFederation.Kind.Pause, address(0), "");
        check(federation.paused(), "two do");
        bytes memory refused = abi.encodeWithSelector(IFederation.Paused.selector);
        VM.prank(A);
        VM.expectRevert(refused);
        federation.anchorRound(1, keccak256("m"), "bafk", keccak256("u"), keccak256("x"));
        VM.prank(A);
        VM.expectRevert(refused);
        federation.releaseModel(keccak256("m"), "bafk");
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.PauseUnchanged.selector, true));
        federation.vote(IFederation.Kind.Pause, address(0), "");
        agree(IFederation.Kind.Unpause, address(0), "");
        agree(IFederation.Kind.Pause, address(0), "");
        check(federation.paused(), "and again");
    }

    // Votes, rounds and models.

    function testFuzz_strangersDecideNothing(address stranger) public {
        VM.assume(stranger != A && stranger != B && stranger != C);
        bytes memory refused = abi.encodeWithSelector(IFederation.NotMember.selector, stranger);
        VM.prank(stranger);
        VM.expectRevert(refused);
        federation.vote(IFederation.Kind.Leave, A, "");
        VM.prank(stranger);
        VM.expectRevert(refused);
        federation.setReaderKey(keccak256("key"));
        VM.prank(stranger);
        VM.expectRevert(refused);
        federation.offerKey(NEXT);
        VM.prank(stranger);
        VM.expectRevert(refused);
        federation.anchorRound(1, keccak256("m"), "bafk", keccak256("u"), keccak256("x"));
        VM.prank(stranger);
        VM.expectRevert(refused);
        federation.releaseModel(keccak256("m"), "bafk");
    }

    function test_aMotionThatIsCarriedClosesTheOthers() public {
        bytes memory data = abi.encode(uint256(1));
        VM.prank(A);
        federation.vote(IFederation.Kind.Threshold, address(0), data);
        agree(IFederation.Kind.Suspend, C, "");
        check(federation.votes(IFederation.Kind.Threshold, address(0), data) == 0, "its votes count no more");
        VM.prank(B);
        (, bool carried) = federation.vote(IFederation.Kind.Threshold, address(0), data);
        check(!carried && federation.threshold() == 2, "and it must begin anew");
    }

    function testFuzz_theThresholdCanAlwaysBeReached(uint256 k) public {
        if (k == 0 || k > 3) {
            VM.prank(A);
            VM.expectRevert(abi.encodeWithSelector(IFederation.BadThreshold.selector, k, 3));
            federation.vote(IFederation.Kind.Threshold, address(0), abi.encode(k));
            return;
        }
        agree(IFederation.Kind.Threshold, address(0), abi.encode(k));
        check(federation.threshold() == k, "as decided");
    }

    function test_nobodyLeavesWhoIsNeeded() public {
        agree(IFederation.Kind.Threshold, address(0), abi.encode(uint256(3)));
        bytes memory refused = abi.encodeWithSelector(IFederation.BadThreshold.selector, 3, 2);
        VM.prank(A);
        VM.expectRevert(refused);
        federation.vote(IFederation.Kind.Leave, C, "");
        VM.prank(A);
        VM.expectRevert(refused);
        federation.vote(IFederation.Kind.Suspend, C, "");
    }

    function test_namesAndAccountsAreTakenOnce() public {
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.NameTaken.selector, keccak256("b")));
        federation.vote(IFederation.Kind.Join, NEXT, abi.encode(keccak256("b"), keccak256("key")));
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AlreadyMember.selector, B));
        federation.vote(IFederation.Kind.Join, B, abi.encode(keccak256("new"), keccak256("key")));
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.ZeroHash.selector));
        federation.vote(IFederation.Kind.Join, NEXT, abi.encode(keccak256("new"), bytes32(0)));
        agree(IFederation.Kind.Leave, B, "");
        agreeAfter(IFederation.Kind.Join, NEXT, abi.encode(keccak256("b"), keccak256("key")));
        check(federation.isMember(NEXT), "who has left gives its name back");
    }

    function agreeAfter(IFederation.Kind kind, address account, bytes memory data) private {
        VM.prank(A);
        federation.vote(kind, account, data);
        VM.prank(C);
        federation.vote(kind, account, data);
    }

    function test_thereIsNoHistoryOfTheFuture() public {
        VM.expectRevert(abi.encodeWithSelector(IFederation.FutureBlock.selector, 11));
        federation.isMemberAt(A, 11);
    }

    function testFuzz_roundsHaveNoGap(uint64 number) public {
        VM.assume(number != 1);
        VM.prank(A);
        VM.expectRevert(abi.encodeWithSelector(IFederation.RoundNotNext.selector, number, 0));
        federation.anchorRound(number, keccak256("m"), "bafk", keccak256("u"), keccak256("x"));
        VM.prank(A);
        federation.anchorRound(1, keccak256("m"), "bafk", keccak256("u"), keccak256("x"));
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IFederation.RoundNotNext.selector, 1, 1));
        federation.anchorRound(1, keccak256("other"), "bafk", keccak256("u"), keccak256("x"));
        check(federation.round(1).modelHash == keccak256("m"), "the first stands");
    }

    function test_modelsAreReleasedTogetherAndOnce() public {
        VM.prank(A);
        federation.releaseModel(keccak256("m"), "bafk");
        VM.prank(A);
        VM.expectRevert(
            abi.encodeWithSelector(
                IFederation.AlreadyVoted.selector, keccak256(abi.encode("model", keccak256("m"), "bafk", 0)), A
            )
        );
        federation.releaseModel(keccak256("m"), "bafk");
        VM.prank(B);
        check(!federation.releaseModel(keccak256("m"), "other"), "another CID is another motion");
        VM.prank(C);
        check(federation.releaseModel(keccak256("m"), "bafk"), "two release it");
        VM.prank(B);
        VM.expectRevert(abi.encodeWithSelector(IFederation.AlreadyReleased.selector, keccak256("m")));
        federation.releaseModel(keccak256("m"), "bafk");
    }
}

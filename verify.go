package enhanced

import (
	"context"
	"strings"
)

// Violation is something in a store that breaks one of its rules.
type Violation struct {
	// Rule is the rule that is broken: one of the Rule constants.
	Rule string
	// Record is where it is, as in BackendStats.UnreadableRecords.
	Record string
	// Repository is the name of the repository, empty where it is unknown.
	Repository string
	// Detail says what is wrong there. It repeats owners, tokens and times of
	// what is stored, and nothing else.
	Detail string
	// Repair says what a repair would do, empty where a person has to decide.
	Repair string
}

// Rules of a store, as [Violation.Rule] names them. The names are stable.
const (
	// RuleFile: the file's own structure is sound.
	RuleFile = "file-damaged"
	// RuleClockAhead: the store's clock is at most a day ahead of this machine's.
	RuleClockAhead = "clock-ahead"
	// RuleClockBehind: the store's clock is not before the latest log record.
	RuleClockBehind = "clock-behind"
	// RuleTokenCounter: the store's token is at least as large as every token in use.
	RuleTokenCounter = "token-counter"
	// RuleRepositoryName: a repository is stored under the tag of its name.
	RuleRepositoryName = "repository-name"
	// RuleFleet: the record of the [Fleet] can be read.
	RuleFleet = "fleet"
	// RuleUnknownEntry: every entry is of a kind that the store's format has.
	RuleUnknownEntry = "unknown-entry"

	// RuleLockKey: a lock is stored under the key of its resource.
	RuleLockKey = "lock-key"
	// RuleLockUnreadable: every lock record can be read.
	RuleLockUnreadable = "lock-unreadable"
	// RuleLockContent: stock's form of a lock can be read and is of the same
	// resource and owner as the lock.
	RuleLockContent = "lock-content"
	// RuleLockToken: a lock has a token of its own, not one of the future.
	RuleLockToken = "lock-token"
	// RuleLockPriority: a lock has one of the priorities that there are.
	RuleLockPriority = "lock-priority"
	// RuleLockTime: a lock was acquired at a time that has come, and before its
	// lease ends.
	RuleLockTime = "lock-time"
	// RuleLockMetadata: the metadata of a lock is such as a request can have, see
	// [ValidateMetadata].
	RuleLockMetadata = "lock-metadata"
	// RuleCredential: no lock contains a credential.
	RuleCredential = "credential"

	// RuleLockCount: the store's count of a repository's locks is right.
	RuleLockCount = "lock-count"

	// RuleOwnerMissing: an owner's entry leads to each of its locks. A bbolt file has no
	// such entries.
	RuleOwnerMissing = "owner-missing"
	// RuleOwnerStray: an owner's entry leads to a lock that the owner holds, or to what it
	// waits for.
	RuleOwnerStray = "owner-stray"
	// RuleDeadlineMissing: each lease has a deadline entry.
	RuleDeadlineMissing = "deadline-missing"
	// RuleDeadlineStray: a deadline entry leads to a lease that ends then.
	RuleDeadlineStray = "deadline-stray"
	// RuleIDMissing: each lock's ID leads to it.
	RuleIDMissing = "id-missing"
	// RuleIDStray: an ID leads to the lock that has it, or says how that ended.
	RuleIDStray = "id-stray"
	// RuleEnding: what is remembered of an ended lock can be read, and has a
	// time to be forgotten.
	RuleEnding = "ending"
	// RuleForgetStray: an entry of what to forget leads to an ended lock.
	RuleForgetStray = "forget-stray"
	// RuleForgetCount: the numbers of the entries of what to forget begin and end where
	// the store says. A bbolt file counts none.
	RuleForgetCount = "forget-count"
	// RuleForgetLate: an ended lock is forgotten when it has been remembered for
	// its time, and not long after.
	RuleForgetLate = "forget-late"
	// RuleClosing: the mark of a pull request that is being closed is of a time
	// that has come.
	RuleClosing = "closing"
	// RuleRequestMissing: the request of a lock, held or remembered, leads to it.
	RuleRequestMissing = "request-missing"
	// RuleRequestStray: a request's entry leads to the lock that it got.
	RuleRequestStray = "request-stray"

	// RuleQueueUnreadable: every waiter can be read.
	RuleQueueUnreadable = "queue-unreadable"
	// RuleQueueRank: each waiter stands where its priority and its time put it.
	RuleQueueRank = "queue-rank"
	// RuleQueueMissing: its request and its owner lead to each waiter.
	RuleQueueMissing = "queue-missing"
	// RuleQueueStray: what leads to a waiter leads to one that is there.
	RuleQueueStray = "queue-stray"
	// RuleQueueCount: the number of waiters is right.
	RuleQueueCount = "queue-count"
	// RuleReservation: what is reserved for a pull request can be read, stands
	// beside no lock, and its owner leads to it and to nothing else.
	RuleReservation = "reservation"
	// RuleTombstone: a closed pull request is one since a time that has come.
	RuleTombstone = "tombstone"

	// RuleStockUnreadable: stock Atlantis' records can be read.
	RuleStockUnreadable = "stock-unreadable"
	// RuleStockKey: a record of stock Atlantis is of the project that its key names.
	RuleStockKey = "stock-key"
	// RuleStockShared: a record of stock Atlantis is the copy of one lock only.
	RuleStockShared = "stock-shared"
	// RuleStockRival: stock Atlantis has no record of another owner on a resource
	// that is held.
	RuleStockRival = "stock-rival"

	// RuleLogUnreadable: every log record can be read.
	RuleLogUnreadable = "log-unreadable"
	// RuleLogGap: the log has no gaps.
	RuleLogGap = "log-gap"
	// RuleLogSequence: the log ends with the latest sequence that was given.
	RuleLogSequence = "log-sequence"
	// RuleLogCheckpoint: the log's checkpoint ends where its first record begins.
	RuleLogCheckpoint = "log-checkpoint"
	// RuleLogTime: the log's times do not run backwards.
	RuleLogTime = "log-time"
	// RuleLogToken: the tokens that the log says were granted increase.
	RuleLogToken = "log-token"
	// RuleLogLock: the log's last word on a lock is what is stored of it.
	RuleLogLock = "log-lock"
)

// Verifier is a backend that can check what it has stored.
type Verifier interface {
	// Verify checks every rule that can be checked and returns what breaks
	// one. It changes nothing. On a store in use it sees one moment. What stock
	// Atlantis has changed in its own records, and this store will follow, is
	// no violation.
	Verify(ctx context.Context) ([]Violation, error)
	// Repair does what the Repair texts of Verify say, as of now, logs each
	// with the actor, an owner in text form, and the reason, and returns what it
	// repaired. It never takes a readable lock away or makes one. What can't be
	// read is moved aside, byte for byte; a resource whose record was moved
	// aside is free. A healthy store stays as it is.
	Repair(ctx context.Context, actor, reason string) ([]Violation, error)
}

// ActionRepair is what an [Authorizer] is asked before a repair. The request
// has only an actor and a reason.
const ActionRepair = "repair"

// ValidateRepair checks who repairs and why. Its error is an INVALID_REQUEST.
func ValidateRepair(actor, reason string) error {
	if _, err := ParseOwner(actor); err != nil {
		return err
	}
	if strings.TrimSpace(reason) == "" {
		return NewInvalidError("a repair needs a reason; it is logged")
	}
	return ValidateReason(reason)
}

// Verify checks the store. A backend that can't is an INVALID_REQUEST.
func (m *EnhancedLockManager) Verify(ctx context.Context) ([]Violation, error) {
	verifier, err := m.verifier(ctx)
	if err != nil {
		return nil, err
	}
	return verifier.Verify(ctx)
}

// Repair repairs the store, if the Authorizer allows it; see [Verifier].
func (m *EnhancedLockManager) Repair(ctx context.Context, actor, reason string) ([]Violation, error) {
	verifier, err := m.verifier(ctx)
	if err != nil {
		return nil, err
	}
	if err := ValidateRepair(actor, reason); err != nil {
		return nil, err
	}
	if err := m.authorize(ctx, AuthorizationRequest{Action: ActionRepair, Actor: actor, Reason: reason}); err != nil {
		return nil, err
	}
	return verifier.Repair(ctx, actor, reason)
}

func (m *EnhancedLockManager) verifier(ctx context.Context) (Verifier, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	verifier, ok := m.backend.(Verifier)
	if !ok {
		return nil, NewInvalidError("this store can't be verified")
	}
	return verifier, nil
}

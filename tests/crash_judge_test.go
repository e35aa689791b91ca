package tests

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// A release that is answered after the next lock was transferred ends the lock that it
// is of, not the next one.
func TestCrashJudgeReadsLateAnswers(t *testing.T) {
	t.Parallel()
	id := func(token int64) string { return enhanced.FormatLockID("org/app", token) }
	call := func(number int64, op, lock, owner string, token int64) (both []loadStep) {
		step := loadStep{Call: number, Op: op, Resource: "p", Lock: lock, Owner: owner, Token: token, Granted: op == "acquire"}
		begun := step
		begun.Granted = false
		step.Answered = true
		return []loadStep{begun, step}
	}
	one, two := call(1, "acquire", id(7), "user:ann", 7), call(2, "acquire", id(8), "user:bob", 8)
	late, transfer := call(3, "release", id(7), "", 0), call(4, "transfer", id(8), "user:heir", 0)
	end := call(5, "release", id(9), "", 0)
	steps := append(one, late[0], two[0], two[1], transfer[0], transfer[1], late[1])

	for name, want := range map[string]map[string]held{
		"before": {"p": {"", "user:heir", 0, loadLease}}, "after": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := steps
			if name == "after" {
				report = append(report[:len(report):len(report)], end...)
			}
			judge := &crashJudge{}
			require.Equal(t, want, judge.replayed(t, report).held)
		})
	}
}

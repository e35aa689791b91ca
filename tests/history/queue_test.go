package history

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// logOf makes a log on one resource: "queued a", "granted a", and so on.
func logOf(resource string, steps ...[2]string) (records []*enhanced.LogRecord) {
	for _, step := range steps {
		r := &enhanced.LogRecord{
			Sequence: uint64(len(records)) + 1, Type: step[0], RequestID: step[1],
			Resource: enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: "org/app", Path: resource, Workspace: "w"},
		}
		switch {
		case enhanced.IsQueueEvent(step[0]):
			r.Waiter = "user:" + step[1]
		case step[0] == enhanced.EventReleased, step[0] == enhanced.EventReserved:
			r.Before = &enhanced.LockSummary{Owner: "user:" + step[1]}
		case step[0] == enhanced.EventTimeout:
			r.Before, r.Reason = &enhanced.LockSummary{Owner: "user:" + step[1]}, enhanced.ReasonUncleanRelease
		default:
			r.After = &enhanced.LockSummary{Owner: "user:" + step[1]}
		}
		records = append(records, r)
	}
	return records
}

func TestJudgeQueue(t *testing.T) {
	t.Parallel()
	priorities := map[string]enhanced.Priority{"low": enhanced.PriorityLow, "low2": enhanced.PriorityLow, "high": enhanced.PriorityHigh}
	const acquired, released, queued, granted, cancelled, moved = enhanced.EventAcquired, enhanced.EventReleased, enhanced.EventQueued, enhanced.EventGranted, enhanced.EventCancelled, enhanced.EventMoved
	const reserved, ended, lapsed = enhanced.EventReserved, enhanced.EventReservationEnded, enhanced.EventTimeout
	start := [][2]string{{acquired, "x"}, {queued, "low"}, {queued, "low2"}, {queued, "high"}}
	for name, c := range map[string]struct {
		steps   [][2]string
		problem string
	}{
		"in order":           {steps: [][2]string{{released, "x"}, {granted, "high"}, {released, "high"}, {granted, "low"}, {cancelled, "low2"}}},
		"passed over":        {steps: [][2]string{{released, "x"}, {cancelled, "high"}, {granted, "low"}, {cancelled, "low2"}}},
		"priority ignored":   {steps: [][2]string{{released, "x"}, {granted, "low"}, {cancelled, "low2"}, {cancelled, "high"}}, problem: "user:low was given it before user:high"},
		"overtaken":          {steps: [][2]string{{cancelled, "high"}, {released, "x"}, {granted, "low2"}, {cancelled, "low"}}, problem: "user:low2 was given it before user:low"},
		"moved":              {steps: [][2]string{{moved, "low2"}, {released, "x"}, {granted, "low2"}, {cancelled, "low"}, {cancelled, "high"}}},
		"a move ignored":     {steps: [][2]string{{moved, "low2"}, {released, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}, problem: "user:high was given it before user:low2"},
		"taken back":         {steps: [][2]string{{reserved, "x"}, {acquired, "x"}, {released, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}},
		"not taken back":     {steps: [][2]string{{reserved, "x"}, {ended, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}},
		"reserved, and lost": {steps: [][2]string{{reserved, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}, problem: "it is reserved for user:x"},
		"lapsed":             {steps: [][2]string{{lapsed, "x"}, {ended, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}},
		"lapsed, and lost":   {steps: [][2]string{{lapsed, "x"}, {granted, "high"}, {cancelled, "low"}, {cancelled, "low2"}}, problem: "it is reserved for user:x"},
		"nothing reserved":   {steps: [][2]string{{ended, "x"}, {cancelled, "low"}, {cancelled, "low2"}, {cancelled, "high"}}, problem: "nothing is reserved for user:x"},
		"taken by another":   {steps: [][2]string{{released, "x"}, {acquired, "y"}, {cancelled, "low"}, {cancelled, "low2"}, {cancelled, "high"}}, problem: "user:high waits for it"},
		"never came":         {steps: [][2]string{{released, "x"}, {granted, "other"}, {cancelled, "low"}, {cancelled, "low2"}, {cancelled, "high"}}, problem: "other does not wait"},
		"still there":        {steps: [][2]string{{cancelled, "low"}, {cancelled, "low2"}}, problem: "at the end 1 wait for"},
		"waits twice":        {steps: [][2]string{{queued, "low"}}, problem: "low waits already"},
		"left after a grant": {steps: [][2]string{{released, "x"}, {granted, "high"}, {cancelled, "high"}}, problem: "high does not wait"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := JudgeQueue(logOf("r", append(append([][2]string{}, start...), c.steps...)...), priorities)
			if c.problem == "" {
				require.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			require.Contains(t, problems[0], c.problem)
		})
	}
	t.Run("free while others wait", func(t *testing.T) {
		t.Parallel()
		records := append(logOf("r", append(append([][2]string{}, start...), [2]string{released, "x"})...), logOf("s", [2]string{acquired, "y"})...)
		require.Contains(t, JudgeQueue(records, priorities)[0], "is free, and user:high waits for it")
	})
}

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

// Wrong usage of verify and audit is told before anything is opened or called.
func TestCheckUsage(t *testing.T) {
	for args, says := range map[string]string{
		"verify x":                         "takes no arguments",
		"verify --repair":                  "--repair needs --reason",
		"verify --repair --reason=\t":      "--repair needs --reason",
		"verify --reason r":                "are for --repair",
		"verify --yes":                     "are for --repair",
		"verify --user bob":                "are for --repair",
		"verify --file a --data-dir b":     "exclude each other",
		"verify --file a --server http://": "exclude each other",
		"verify --file=":                   "--file is empty",
		"verify --data-dir=":               "--data-dir is empty",
		"verify --server nonsense":         "no http or https address",

		"audit lsit":                       "unknown command lsit; did you mean list?",
		"audit list x":                     "takes no arguments",
		"audit list --owner alice":         `owner "alice" is neither`,
		"audit list --owner=":              `owner "" is neither`,
		"audit list --type relased":        "--type relased is none of acquired, released,",
		"audit list --since yesterday":     "--since yesterday is neither a duration",
		"audit list --since -1h":           "--since -1h is neither",
		"audit export x":                   "takes no arguments",
		"audit export --to=":               "--to is empty",
		"audit verify":                     "takes FILE",
		"audit verify a b":                 "takes FILE",
		"audit verify a --hash x":          "--hash x is no hash",
		"audit verify a --hash " + upper(): "is no hash",
	} {
		t.Run(args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(environment{
				stdout: &stdout, stderr: &stderr, now: time.Now,
				getenv:   func(string) string { return "" },
				username: func() (string, error) { return "", errors.New("none") },
			}, strings.Split(args, " "))
			require.Equal(t, exitUsage, code)
			require.Empty(t, stdout.String())
			require.Contains(t, stderr.String(), says)
			require.Contains(t, stderr.String(), "hint: see ")
		})
	}
}

// What a hint says can be typed where the program was called.
func TestHintsNameTheProgramAsItWasCalled(t *testing.T) {
	for program, says := range map[string]string{
		"atlantis-locks":       `"atlantis-locks `,
		"bin/atlantis-locks":   `"bin/atlantis-locks `,
		"../x/atlantis-locks2": `"../x/atlantis-locks2 `,
		"":                     `"atlantis-locks `,
	} {
		for args, rest := range map[string]string{
			"lock":                               `lock --help"`,
			"nonsense":                           `--help"`,
			"audit verify":                       `audit verify --help"`,
			"list --server http://127.0.0.1:1":   `serve"`,
			"stats --server http://127.0.0.1:1 ": `stats --help"`,
		} {
			var stdout, stderr bytes.Buffer
			run(environment{
				program: program, stdout: &stdout, stderr: &stderr, now: time.Now, getenv: func(string) string { return "" },
			}, strings.Split(args, " "))
			require.Contains(t, stderr.String(), says+rest)
		}
		for _, problem := range []*api.Problem{
			{Code: "LOCK_NOT_FOUND"}, {Code: "LOCK_EXISTS"}, {Code: "LOCK_EXISTS", Holder: &api.Lock{ID: "x"}}, {OutcomeUnknown: true},
		} {
			require.Contains(t, hintFor(environment{program: program}, problem), says)
		}
	}
}

func upper() string { return strings.Repeat("A", 64) }

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
	for text, want := range map[string]time.Time{
		"24h":                       now.Add(-24 * time.Hour),
		"0s":                        now,
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, now.Location()),
		"2026-01-31T15:04:05Z":      time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC),
		"2026-01-31T15:04:05+02:00": time.Date(2026, 1, 31, 13, 4, 5, 0, time.UTC),
	} {
		at, ok := parseSince(text, now)
		require.True(t, ok, text)
		require.True(t, want.Equal(at), "%s: %s", text, at)
	}
	for _, text := range []string{"", "-1h", "24", "2026", "2026-02-30", "31.01.2026"} {
		_, ok := parseSince(text, now)
		require.False(t, ok, text)
	}
}

func TestAuditFilter(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	record := api.LogRecord{
		Time: at, Type: "transferred", Actor: "user:bob",
		Before: &api.LockState{OwnerID: "user:alice"}, After: &api.LockState{OwnerID: "user:carol"},
	}
	for name, c := range map[string]struct {
		filter auditFilter
		want   bool
	}{
		"none":              {auditFilter{}, true},
		"who did it":        {auditFilter{owner: "user:bob"}, true},
		"who had it":        {auditFilter{owner: "user:alice"}, true},
		"who got it":        {auditFilter{owner: "user:carol"}, true},
		"another":           {auditFilter{owner: "user:dave"}, false},
		"its type":          {auditFilter{kind: "transferred"}, true},
		"another type":      {auditFilter{kind: "released"}, false},
		"since then":        {auditFilter{since: at}, true},
		"since later":       {auditFilter{since: at.Add(1)}, false},
		"owner and type":    {auditFilter{owner: "user:bob", kind: "transferred", since: at}, true},
		"owner, not type":   {auditFilter{owner: "user:bob", kind: "released"}, false},
		"type, not in time": {auditFilter{kind: "transferred", since: at.Add(1)}, false},
	} {
		require.Equal(t, c.want, c.filter.chooses(record), name)
	}
	unreadable := api.LogRecord{Type: "unreadable"}
	require.True(t, auditFilter{since: at}.chooses(unreadable), "it could be any")
	require.False(t, auditFilter{owner: "user:bob"}.chooses(unreadable))
}

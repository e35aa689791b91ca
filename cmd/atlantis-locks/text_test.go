package main

import (
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{
		"acme/infra":     "acme/infra",
		"a b":            "a b",
		`say "hi"`:       `say "hi"`,
		`"quoted"`:       `"\"quoted\""`, // can't be mistaken for an escape
		"日本 🔒":           "日本 🔒",
		`C:\x`:           `C:\x`,
		"\x1b[2J":        `"\x1b[2J"`,
		"a\tb":           `"a\tb"`,
		"a\r\nb":         `"a\r\nb"`,
		"\u202eabc":      `"\u202eabc"`,
		"a\u200bb":       `"a\u200bb"`,
		"\xff":           `"\xff"`,
		"\u00a0":         `"\u00a0"`,
		"\u2028":         `"\u2028"`,
		"del\x7f":        `"del\x7f"`,
		"c1\u009b31mred": `"c1\u009b31mred"`,
	} {
		require.Equal(t, want, printable(name), "%q", name)
	}
	require.Equal(t, "-", dash(""))
}

func TestEscape(t *testing.T) {
	for message, want := range map[string]string{
		`plain "quotes" \ stay`: `plain "quotes" \ stay`,
		"a\x1b[31m\nb\xffc":     `a\x1b[31m\nb\xffc`,
		"\u202e":                `\u202e`,
		"日本":                    "日本",
	} {
		require.Equal(t, want, escape(message))
	}
}

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                               "0s",
		999 * time.Millisecond:          "0s",
		61 * time.Second:                "1m1s",
		-61 * time.Second:               "1m1s",
		time.Hour:                       "1h0m",
		25*time.Hour + 59*time.Minute:   "1d1h",
		100 * 24 * time.Hour:            "100d0h",
		59*time.Minute + 59*time.Second: "59m59s",
	} {
		require.Equal(t, want, roughly(d))
	}
}

func TestOwnerText(t *testing.T) {
	for want, lock := range map[string]api.Lock{
		"user alice":                {Owner: api.Owner{User: "alice"}},
		`user "\x1b"`:               {Owner: api.Owner{User: "\x1b"}},
		"pull request 5 on ghe.com": {Owner: api.Owner{Pull: 5, Host: "ghe.com"}},
		"pull request 5":            {Owner: api.Owner{Pull: 5}, OwnerID: "pr:/a%2Fb/5"},
		"pr:/a%2Fb/0":               {OwnerID: "pr:/a%2Fb/0"},
	} {
		require.Equal(t, want, ownerText(lock))
	}
}

func TestLeaseText(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ends := now.Add(90 * time.Second)
	require.Equal(t, "until released", leaseText(api.Lock{}, now))
	require.Equal(t, "ends in 1m30s", leaseText(api.Lock{ExpiresAt: &ends}, now))
	require.Equal(t, "ends now", leaseText(api.Lock{ExpiresAt: &ends}, now.Add(time.Hour)))
	require.Equal(t, "2026-01-02 03:05:35 UTC (1m30s from now)", timestamp(ends, now))
	require.Equal(t, "2026-01-02 03:04:05 UTC (1m30s ago)", timestamp(now, ends))
}

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// Names come from other people. What is printed must not move a cursor, hide
// text or end a line.

// printable returns a name as it is, or quoted if it could mislead a reader or
// a terminal.
func printable(name string) string {
	if isPlain(name) && !strings.HasPrefix(name, `"`) {
		return name
	}
	return strconv.Quote(name)
}

func printableAll(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = printable(name)
	}
	return strings.Join(quoted, " ")
}

// escape returns a message with escapes for what is not plain.
func escape(message string) string {
	if isPlain(message) {
		return message
	}
	var b strings.Builder
	for len(message) > 0 {
		r, size := utf8.DecodeRuneInString(message)
		if r == utf8.RuneError && size == 1 || !strconv.IsPrint(r) {
			quoted := strconv.Quote(message[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(r)
		}
		message = message[size:]
	}
	return b.String()
}

func isPlain(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}

// dash stands for an empty cell.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return printable(text)
}

// resourceText describes what a lock is on.
func resourceText(lock api.Lock) string {
	return enhanced.ResourceIdentifier{
		Type: enhanced.ResourceType(lock.Type), Namespace: lock.Repository,
		Path: lock.Path, Workspace: lock.Workspace, Name: lock.ProjectName,
	}.String()
}

// ownerText describes who holds a lock.
func ownerText(lock api.Lock) string {
	switch o := lock.Owner; {
	case o.User != "":
		return "user " + printable(o.User)
	case o.Pull != 0 && o.Host != "":
		return fmt.Sprintf("pull request %d on %s", o.Pull, printable(o.Host))
	case o.Pull != 0:
		return fmt.Sprintf("pull request %d", o.Pull)
	default:
		return printable(lock.OwnerID)
	}
}

// idText describes an owner that is known by its text alone.
func idText(ownerID string) string { return printable(enhanced.DescribeOwner(ownerID)) }

// leaseText says when the lock ends by itself.
func leaseText(lock api.Lock, now time.Time) string {
	if lock.ExpiresAt == nil {
		return "until released"
	}
	if left := lock.ExpiresAt.Sub(now); left > 0 {
		return "ends in " + roughly(left)
	}
	return "ends now"
}

// roughly returns a duration in its two largest units.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Abs(); {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	default:
		return d.Truncate(time.Second).String()
	}
}

// timestamp returns a time for people, with its distance from now.
func timestamp(t, now time.Time) string {
	relation := "ago"
	if t.After(now) {
		relation = "from now"
	}
	return fmt.Sprintf("%s (%s %s)", t.UTC().Format("2006-01-02 15:04:05 UTC"), roughly(now.Sub(t)), relation)
}

// count returns a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

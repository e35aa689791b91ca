package backends

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A lock in Redis is two texts. The header is eight lines, so that scripts read
// it without JSON: cjson changes numbers and empty lists.
//
//	token, acquired, expires (0 for none)
//	flag      - no copy under stock's key, m copy there, c conflict: stock has
//	          written something else there; p, M, C are the same of a lock that
//	          nobody has claimed yet
//	priority, owner, request, note (JSON)
//
// The details are stock's form of the lock (JSON) and, where there are any, a
// line break and the metadata (JSON). Scripts pass them on. No field has a line
// break, since names have none and JSON escapes it.

// redisRecord is a lock as read.
type redisRecord struct {
	*lockRecord
	conflict bool
	payload  string
	// ended is set by a reader when the lease has run out.
	ended bool
}

// headerLines is how many lines a header has.
const headerLines = 8

func decodeRedisRecord(header, details string) (*redisRecord, error) {
	if lines := strings.Count(header, "\n") + 1; lines != headerLines {
		return nil, fmt.Errorf("lock's header has %d lines instead of %d", lines, headerLines)
	}
	var lines [headerLines]string
	for i := range lines {
		lines[i], header, _ = strings.Cut(header, "\n")
	}
	payload, metadata, _ := cutLine(details)
	r := &lockRecord{Owner: lines[5], Request: lines[6], Lock: jsontext.Value(payload)}
	priority := int64(0)
	if err := parseNumbers([]string{lines[0], lines[1], lines[2], lines[4]}, &r.Token, &r.Acquired, &r.Expires, &priority); err != nil {
		return nil, fmt.Errorf("lock's header: %w", err)
	}
	r.Priority = enhanced.Priority(priority)
	if !looksLikeOwner(r.Owner) {
		return nil, fmt.Errorf("lock's owner is %q", r.Owner)
	}
	flag := lines[3]
	switch flag {
	case "p", "M", "C":
		r.Pending = true
		flag = map[string]string{"p": "-", "M": "m", "C": "c"}[flag]
	case "-", "m", "c":
	default:
		flag = ""
	}
	if r.Token <= 0 || r.Acquired <= 0 || r.Expires < 0 || flag == "" || r.Pending && r.Expires == 0 {
		return nil, fmt.Errorf("lock has flag %q, token %d, acquired %d, expires %d", lines[3], r.Token, r.Acquired, r.Expires)
	}
	if !strings.HasPrefix(payload, "{") {
		return nil, fmt.Errorf("lock's details begin with %.1q", payload)
	}
	if metadata != "" {
		if err := decode([]byte(metadata), &r.Metadata); err != nil {
			return nil, err
		}
	}
	if flag != "-" {
		r.Mirror = flag
	}
	return &redisRecord{lockRecord: r, conflict: flag == "c", payload: payload}, nil
}

func parseNumbers(texts []string, fields ...*int64) error {
	for i, text := range texts {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		*fields[i] = n
	}
	return nil
}

// looksLikeOwner reports whether a text has the form of an owner's, without
// taking it apart, which takes longer than all else in a record.
func looksLikeOwner(text string) bool {
	kind, rest, _ := strings.Cut(text, ":")
	switch enhanced.OwnerKind(kind) {
	case enhanced.OwnerPull:
		number := rest[strings.LastIndexByte(rest, '/')+1:]
		_, err := strconv.Atoi(number)
		return err == nil && strings.Count(rest, "/") == 2
	case enhanced.OwnerUser:
		return rest != "" && !strings.ContainsAny(rest, "/ ")
	}
	return false
}

// lock returns the record as a lock, of the repository with the tag.
func (r *redisRecord) lock(tag string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	original, err := decodeProjectLock([]byte(r.payload))
	if err != nil {
		return nil, err
	}
	return newLock(tag, resource, r.lockRecord, original), nil
}

// redisLock decodes a lock that a script has answered.
func redisLock(header, details, tag string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	r, err := decodeRedisRecord(header, details)
	if err != nil {
		return nil, err
	}
	return r.lock(tag, resource)
}

// withoutOriginal decodes a record whose stock's form is damaged, of a lock that
// was released all the same: what that form says is made up from its owner.
func withoutOriginal(header, details string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	r, err := decodeRedisRecord(header, details)
	if err != nil {
		return nil, err
	}
	owner, err := enhanced.ParseOwner(r.Owner)
	if err != nil {
		return nil, err
	}
	original, err := enhanced.TransferProjectLock(models.ProjectLock{
		Project: resource.Project(), Workspace: resource.Workspace, Time: time.UnixMicro(r.Acquired),
	}, owner)
	if err != nil {
		return nil, err
	}
	return newLock(enhanced.RepositoryTag(resource.Namespace), resource, r.lockRecord, &original), nil
}

// metadataLines are the note and metadata lines of a record.
func metadataLines(metadata map[string]string) (note, all string, err error) {
	if len(metadata) == 0 {
		return "", "", nil
	}
	data, err := encode(metadata)
	if err != nil {
		return "", "", err
	}
	if text := metadata[enhanced.MetadataNote]; text != "" {
		quoted, err := encode(text)
		if err != nil {
			return "", "", err
		}
		note = string(quoted)
	}
	return note, string(data), nil
}

// logLines is how many lines a record of the log has, see append in the prelude.
const logLines = 16

// decodeRedisLog reads a record of a repository's log. That of a deadlock has its
// report in the place of a reason.
func decodeRedisLog(repository string, sequence uint64, text string) (*enhanced.LogRecord, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != logLines || lines[1] == "" {
		return nil, fmt.Errorf("log record %d has %d lines instead of %d", sequence, len(lines), logLines)
	}
	resource, err := enhanced.ParseResourceKey(repository, lines[2])
	if err != nil {
		return nil, err
	}
	number := func(text string) int64 {
		n, parseErr := strconv.ParseInt(text, 10, 64)
		if parseErr != nil && err == nil {
			err = parseErr
		}
		return n
	}
	at, token := number(lines[0]), number(lines[3])
	summary := func(owner, ownToken, expires, note string) *enhanced.LockSummary {
		if owner == "" {
			return nil
		}
		s := &enhanced.LockSummary{Owner: owner, Token: token, ExpiresAt: timeOrNil(number(expires))}
		if ownToken != "" {
			s.Token = number(ownToken)
		}
		if note != "" {
			if decodeErr := decode([]byte(note), &s.Note); decodeErr != nil && err == nil {
				err = decodeErr
			}
		}
		return s
	}
	record := &enhanced.LogRecord{
		Sequence: sequence, Time: time.UnixMicro(at), Type: lines[1],
		LockID: enhanced.FormatLockID(repository, token), RequestID: lines[6],
		Resource: resource, Token: token, Actor: lines[4], Cause: lines[5], Reason: lines[7],
		Before: summary(lines[8], lines[9], lines[10], lines[11]), After: summary(lines[12], lines[13], lines[14], lines[15]),
	}
	if enhanced.IsQueueEvent(record.Type) && record.Before != nil {
		record.LockID, record.Waiter, record.Before = "", record.Before.Owner, nil
		record.Actor = cmp.Or(record.Actor, record.Waiter)
	}
	if record.Type == enhanced.EventDeadlock && strings.HasPrefix(record.Reason, "{") {
		report, decodeErr := decodeDeadlock(repository, record.Reason, at)
		record.Deadlock, record.Reason, err = report, "", cmp.Or(err, decodeErr)
	}
	if record.Actor == "" {
		for _, s := range []*enhanced.LockSummary{record.After, record.Before} {
			if s != nil {
				record.Actor = s.Owner
				break
			}
		}
	}
	return record, err
}

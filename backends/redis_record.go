package backends

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// A lock record in Redis is ten lines, so that scripts read it without JSON:
// cjson changes numbers and empty lists. No field has a line break, since names
// have none and JSON escapes it.
//
//	flag      - no copy under stock's key, m copy there, c conflict: stock has
//	          written something else there
//	token, owner, priority, acquired, expires (0 for none), request,
//	note, metadata (JSON), stock's form (JSON)

// redisRecord is a record as read.
type redisRecord struct {
	*lockRecord
	conflict bool
	payload  string
}

func decodeRedisRecord(raw string) (*redisRecord, error) {
	lines := strings.Split(raw, "\n")
	if len(lines) != 10 {
		return nil, fmt.Errorf("lock record has %d lines instead of 10", len(lines))
	}
	r := &lockRecord{Owner: lines[2], Request: lines[6], Lock: jsontext.Value(lines[9])}
	priority := int64(0)
	for i, field := range map[int]*int64{1: &r.Token, 3: &priority, 4: &r.Acquired, 5: &r.Expires} {
		n, err := strconv.ParseInt(lines[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d of a lock record: %w", i+1, err)
		}
		*field = n
	}
	r.Priority = enhanced.Priority(priority)
	if _, err := enhanced.ParseOwner(r.Owner); err != nil {
		return nil, err
	}
	if r.Token <= 0 || r.Acquired <= 0 || r.Expires < 0 || !strings.Contains("mc-", lines[0]) || len(lines[0]) != 1 {
		return nil, fmt.Errorf("lock record has flag %q, token %d, acquired %d, expires %d", lines[0], r.Token, r.Acquired, r.Expires)
	}
	if lines[8] != "" {
		if err := decode([]byte(lines[8]), &r.Metadata); err != nil {
			return nil, err
		}
	}
	if lines[0] != "-" {
		r.Mirror = lines[0]
	}
	return &redisRecord{r, lines[0] == "c", lines[9]}, nil
}

// lock returns the record as a lock, of the repository with the tag.
func (r *redisRecord) lock(tag string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	original, err := decodeProjectLock([]byte(r.payload))
	if err != nil {
		return nil, err
	}
	return newLock(tag, resource, r.lockRecord, original), nil
}

// redisLock decodes a record that a script has answered.
func redisLock(raw string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	r, err := decodeRedisRecord(raw)
	if err != nil {
		return nil, err
	}
	return r.lock(enhanced.RepositoryTag(resource.Namespace), resource)
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

// redisSequence returns the sequence of a record of the stream.
func redisSequence(message redis.XMessage) (uint64, error) {
	digits, _, _ := strings.Cut(message.ID, "-")
	return strconv.ParseUint(digits, 10, 64)
}

// decodeRedisLog reads a record of a repository's log. Its field names are
// those of logRecord, of the summaries with b before and z after.
func decodeRedisLog(repository string, message redis.XMessage) (*enhanced.LogRecord, error) {
	sequence, err := redisSequence(message)
	if err != nil {
		return nil, err
	}
	text := func(name string) string {
		s, _ := message.Values[name].(string)
		return s
	}
	number := func(name string) int64 {
		n, parseErr := strconv.ParseInt(text(name), 10, 64)
		if parseErr != nil && text(name) != "" && err == nil {
			err = parseErr
		}
		return n
	}
	summary := func(prefix string) *enhanced.LockSummary {
		if text(prefix+"o") == "" {
			return nil
		}
		s := &enhanced.LockSummary{Owner: text(prefix + "o"), Token: number(prefix + "n"), ExpiresAt: timeOrNil(number(prefix + "x"))}
		if note := text(prefix + "k"); note != "" {
			if decodeErr := decode([]byte(note), &s.Note); decodeErr != nil && err == nil {
				err = decodeErr
			}
		}
		return s
	}
	resource, parseErr := enhanced.ParseResourceKey(repository, text("r"))
	if parseErr != nil {
		return nil, parseErr
	}
	token := number("n")
	record := &enhanced.LogRecord{
		Sequence: sequence, Time: time.UnixMicro(number("t")), Type: text("e"),
		LockID: enhanced.FormatLockID(repository, token), RequestID: text("q"),
		Resource: resource, Token: token, Actor: text("a"), Cause: text("c"), Reason: text("w"),
		Before: summary("b"), After: summary("z"),
	}
	if record.Type == "" {
		return nil, fmt.Errorf("log record %d has no type", sequence)
	}
	return record, err
}

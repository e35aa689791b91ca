package backends

import (
	"context"
	"fmt"
	"strconv"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// logPage is how many records a server is asked for at a time.
const logPage = 500

// ReadLog returns records of a repository's log. See [enhanced.Backend].
func (b *RedisBackend) ReadLog(ctx context.Context, repository string, after uint64, limit int) (*enhanced.LogPage, error) {
	if limit < 1 {
		return nil, enhanced.NewInvalidError("limit %d; give at least 1", limit)
	}
	page := &enhanced.LogPage{More: true}
	for page.More && len(page.Records) < limit {
		piece, err := b.readLog(ctx, enhanced.RepositoryTag(repository), repository, after+1, min(limit-len(page.Records), logPage))
		if err != nil {
			return nil, err
		}
		page.Records = append(page.Records, piece.Records...)
		page.More, page.Trimmed = piece.More, piece.Trimmed
		if n := len(piece.Records); n > 0 {
			after = piece.Records[n-1].Sequence
		}
	}
	return page, nil
}

// logPiece is a piece of a log, and the latest sequence at that moment.
type logPiece struct {
	enhanced.LogPage
	last uint64
}

// readLog reads up to limit records from a sequence on. A record that can't be
// read is named instead of hidden.
func (b *RedisBackend) readLog(ctx context.Context, tag, repository string, from uint64, limit int) (*logPiece, error) {
	operation := "read the log of " + repository
	reply, err := b.run(ctx, operation, b.scripts.log, []string{b.keys.state(tag), b.keys.key(tag, "log")}, strconv.FormatUint(from, 10), limit+1)
	if err != nil {
		return nil, err
	}
	if len(reply) < 2 || len(reply)%2 != 0 {
		return nil, enhanced.NewBackendError(operation, fmt.Errorf("script log answered %d parts", len(reply)))
	}
	piece := &logPiece{}
	for i, field := range []*uint64{&piece.Trimmed, &piece.last} {
		if reply[i] == "" {
			continue
		}
		if *field, err = strconv.ParseUint(reply[i], 10, 64); err != nil {
			return nil, enhanced.NewBackendError(operation, fmt.Errorf("%q: %w", b.keys.state(tag), err))
		}
	}
	for i := 2; i < len(reply); i += 2 {
		if len(piece.Records) == limit {
			piece.More = true
			break
		}
		sequence, err := strconv.ParseUint(reply[i], 10, 64)
		if err != nil {
			return nil, enhanced.NewBackendError(operation, err)
		}
		record, err := decodeRedisLog(repository, sequence, reply[i+1])
		if err != nil {
			record = &enhanced.LogRecord{Sequence: sequence, Type: enhanced.EventUnreadable}
			record.Resource.Namespace = repository
		}
		piece.Records = append(piece.Records, record)
	}
	return piece, nil
}

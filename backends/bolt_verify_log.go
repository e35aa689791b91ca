package backends

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxFill is how many lost log records a repair marks as lost, and how far
// behind the log's end a record may lie to be a part of it.
const maxFill = 10_000

// logInspection is what the check of a repository's log has learned.
type logInspection struct {
	// words are the log's last words on each resource, by its key.
	words map[string]lastWord
	// acquired is when the lock on each resource was, as far as the log has it.
	acquired map[string]int64
	// started says that there was a record; previous is the latest one's
	// sequence, before the first one the checkpoint's.
	started  bool
	previous uint64
	// trimmed is the time of the checkpoint, pointErr why that can't be read.
	trimmed  int64
	pointErr error
	// time and token are those of the latest record that has one.
	time, token int64
}

// markerTime is the time of a record that takes the place of a lost one.
func (l *logInspection) markerTime() int64 { return max(cmp.Or(l.time, l.trimmed), 1) }

// lastWord is the latest log record on a resource.
type lastWord struct {
	sequence uint64
	after    *enhanced.LockSummary
}

// rangeOfLog is where the log is, which depends on the file's format.
func (c *inspection) rangeOfLog() byte {
	if c.store.format == firstFormat {
		return rangeOldLog
	}
	return rangeLog
}

// checkLog checks the repository's log.
func (c *inspection) checkLog() {
	c.log.words, c.log.acquired = make(map[string]lastWord), make(map[string]int64)
	var point checkpoint
	c.log.pointErr = decode(c.get(checkpointKey()), &point)
	c.log.previous, c.log.trimmed = point.Sequence, point.Time
	c.eachArchived(func(key, value []byte) {
		if value != nil && isLogKey(key) {
			c.checkLogRecord(key, value)
		} else {
			c.report(enhanced.RuleUnknownEntry, key, "the log's archive has records only, and this is none")
		}
	})
	c.eachEntry(c.rangeOfLog(), func(key, value []byte) {
		if len(key) == 9 {
			c.checkLogRecord(key, value)
		}
	})
	last := c.bucket.Sequence()
	switch {
	case c.log.previous > last:
		end := c.log.previous
		c.report(enhanced.RuleLogSequence, []byte{rangeLog}, "the next record would have sequence %d, and the log goes to %d", last+1, end).
			repairs(fmt.Sprintf("go on after %d", end), func(s *repositoryStep, _ change) error {
				s.batch.dirty = true
				return s.bucket.SetSequence(end)
			})
	case !c.log.started && c.log.pointErr != nil:
		c.checkpointAt(last, "the checkpoint can't be read")
	default:
		c.checkGap(last + 1)
	}
	c.checkClock()
}

// eachArchived calls check for the entries of the log's archive.
func (c *inspection) eachArchived(check func(key, value []byte)) {
	archive := c.archive()
	if archive == nil {
		return
	}
	cursor := archive.Cursor()
	for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
		check(key, value)
	}
}

// checkLogRecord checks one record, in the order of their sequences.
func (c *inspection) checkLogRecord(key, value []byte) {
	l := &c.log
	sequence := uint64(number(key[1:])) //nolint:gosec // the same bits
	if sequence == 0 || l.started && sequence <= l.previous || sequence > c.bucket.Sequence() && sequence > l.previous+maxFill {
		c.report(enhanced.RuleLogSequence, key, "it lies far from the rest of the log").quarantinesEntry(c, key)
		return
	}
	switch {
	case !l.started && l.pointErr != nil:
		c.checkpointAt(sequence-1, "the checkpoint can't be read")
	case !l.started && sequence != l.previous+1:
		c.checkpointAt(sequence-1, fmt.Sprintf("the checkpoint says that the log begins after %d, it begins with %d", l.previous, sequence))
	case l.started:
		c.checkGap(sequence)
	}
	l.started, l.previous = true, sequence
	record, err := decodeLogRecord(c.name, sequence, value)
	if err != nil || record.Time.UnixMicro() <= 0 || record.Type == "" {
		at, where := l.markerTime(), c.where(key)
		key = bytes.Clone(key)
		c.report(enhanced.RuleLogUnreadable, key, "the record can't be read").
			quarantines(where, "; say in its place that it could not be read", func(s *repositoryStep, by change) error {
				return errors.Join(
					s.quarantine(where, s.get(key)),
					s.putMarker(sequence, at, "this record could not be read", by),
				)
			})
		return
	}
	c.checkLogOrder(key, record)
	// The end of stock's second lock on a resource says nothing of the first one.
	ofRival := record.Type == enhanced.EventReleased && record.Token == 0
	if resourceKey := record.Resource.Key(); resourceKey != noResource() && !ofRival && !enhanced.IsQueueEvent(record.Type) {
		l.words[resourceKey] = lastWord{sequence, record.After}
		switch {
		case record.Type == enhanced.EventAcquired, record.Type == enhanced.EventGranted:
			l.acquired[resourceKey] = record.Time.UnixMicro()
		case record.Before == nil || record.After == nil:
			delete(l.acquired, resourceKey)
		}
	}
}

// checkLogOrder checks that neither time nor the tokens of grants run backwards.
func (c *inspection) checkLogOrder(key []byte, record *enhanced.LogRecord) {
	l := &c.log
	if at := record.Time.UnixMicro(); at < l.time {
		c.report(enhanced.RuleLogTime, key, "its time is before that of the record before it: it was altered, or the store's clock was")
	} else {
		l.time = at
	}
	granted := record.After != nil && (record.Before == nil || record.Before.Token != record.After.Token)
	if !granted {
		return
	}
	if token := record.After.Token; token <= l.token {
		c.report(enhanced.RuleLogToken, key, "it grants token %d after token %d: it was altered, or the store's token was", token, l.token)
	} else {
		l.token = token
		c.use(token)
	}
}

// checkGap reports the records that are missing before next.
func (c *inspection) checkGap(next uint64) {
	first, at := c.log.previous+1, c.log.markerTime()
	if first >= next {
		return
	}
	p := c.report(enhanced.RuleLogGap, logKey(first), "%s missing from the log", records(first, next-1))
	if next-first > maxFill {
		return
	}
	p.repairs("say in their place that they are lost", func(s *repositoryStep, by change) error {
		var errs []error
		for sequence := first; sequence < next; sequence++ {
			errs = append(errs, s.putMarker(sequence, at, "this record was lost", by))
		}
		return errors.Join(errs...)
	})
}

func records(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("record %d is", first)
	}
	return fmt.Sprintf("records %d to %d are", first, last)
}

// putMarker writes a record in the place of one that is lost.
func (s *repositoryStep) putMarker(sequence uint64, at int64, what string, by change) error {
	data, err := encodeLogRecord(s.name, logRecord{
		Time: at, Type: enhanced.EventRepaired, Resource: noResource(),
		Actor: by.actor, Cause: by.cause, Reason: what + " (" + by.reason + ")",
	})
	if err != nil {
		return err
	}
	return s.put(logKey(sequence), data)
}

// noResource is the key in log records that are about no single resource.
func noResource() string { return enhanced.ResourceIdentifier{}.Key() }

// checkpointAt reports a checkpoint that is to be at a sequence.
func (c *inspection) checkpointAt(sequence uint64, detail string) {
	key, at, damaged := checkpointKey(), c.log.markerTime(), c.log.pointErr != nil
	where := c.where(key)
	text := fmt.Sprintf("set it to %d", sequence)
	p := c.report(enhanced.RuleLogCheckpoint, key, "%s", detail)
	p.repairs(text, func(s *repositoryStep, _ change) error {
		if damaged {
			if err := s.quarantine(where, s.get(key)); err != nil {
				return err
			}
		}
		if sequence == 0 {
			return s.delete(key)
		}
		value, err := encode(checkpoint{Sequence: sequence, Time: at})
		return errors.Join(err, s.put(key, value))
	})
	if damaged {
		p.Repair = quarantineText + "; " + text
	}
}

// checkClock checks that the store's clock has come as far as the log.
func (c *inspection) checkClock() {
	latest := c.log.time
	if latest <= c.store.clock {
		return
	}
	p := c.report(enhanced.RuleClockBehind, clockKey(), "the store's clock is before the latest log record, of %s",
		time.UnixMicro(latest).UTC().Format(time.RFC3339Nano))
	p.Record, p.level = entryName(clockKey()), latest
	if latest <= c.store.horizon {
		p.repairs("set the clock to that time", func(s *repositoryStep, _ change) error {
			s.batch.now = max(s.batch.now, latest)
			s.now, s.batch.dirty = s.batch.now, true
			return nil
		})
	}
}

// checkLastWord compares a lock with what the log last said of its resource,
// if the log still has it.
func (c *inspection) checkLastWord(key []byte, resourceKey string, record *lockRecord) {
	word, found := c.log.words[resourceKey]
	if !found || sameSummary(word.after, record.summary()) {
		return
	}
	c.report(enhanced.RuleLogLock, key, "log record %d, the last one on the resource, says otherwise: %s, and stored is %s",
		word.sequence, describeSummary(word.after), describeSummary(record.summary())).
		about(resourceKey).repairs("log the lock as it is stored", logOnly)
}

// checkLostLocks looks for locks that the log has and the store has not.
func (c *inspection) checkLostLocks() {
	for _, resourceKey := range slices.Sorted(maps.Keys(c.log.words)) {
		word := c.log.words[resourceKey]
		_, unreadable := c.unreadable[resourceKey]
		if word.after == nil || unreadable || c.recordAt(resourceKey) != nil {
			continue
		}
		p := c.report(enhanced.RuleLogLock, lockKey(resourceKey), "log record %d, the last one on the resource, says: %s; nothing is stored",
			word.sequence, describeSummary(word.after)).
			about(resourceKey).repairs("log that the lock is lost", logOnly)
		p.lost = &lockRecord{Owner: word.after.Owner, Token: word.after.Token, Expires: micros(word.after.ExpiresAt)}
	}
}

// logOnly is a repair that is done with its log record.
func logOnly(*repositoryStep, change) error { return nil }

func sameSummary(x, y *enhanced.LockSummary) bool {
	if x == nil || y == nil {
		return x == y
	}
	return x.Owner == y.Owner && x.Token == y.Token && micros(x.ExpiresAt) == micros(y.ExpiresAt)
}

func micros(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return t.UnixMicro()
}

func describeSummary(s *enhanced.LockSummary) string {
	switch {
	case s == nil:
		return "not locked"
	case s.ExpiresAt == nil:
		return fmt.Sprintf("%s holds it with token %d", s.Owner, s.Token)
	default:
		return fmt.Sprintf("%s holds it with token %d until %s", s.Owner, s.Token, s.ExpiresAt.UTC().Format(time.RFC3339Nano))
	}
}

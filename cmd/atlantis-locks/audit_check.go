package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// maxAuditLine bounds one line. The largest record has some 100 KB.
const maxAuditLine = 4 << 20

// auditCheck reads an audit file line by line and finds what is not as it was
// written.
type auditCheck struct {
	findings []auditFinding
	line     int
	previous string // hash of the line before
	final    string // hash of the last line, once it came
	records  int
	ended    bool
	sealed   int // lines with a hash

	// sums are what the file has of each repository, in order.
	sums  []auditRecordSum
	spans []auditSpan
}

// auditSpan is where the records of a repository are in the file.
type auditSpan struct {
	firstLine   int
	first, last uint64
}

func newAuditCheck() *auditCheck {
	return &auditCheck{findings: []auditFinding{}}
}

func (c *auditCheck) find(line int, format string, args ...any) {
	c.findings = append(c.findings, auditFinding{Line: line, What: fmt.Sprintf(format, args...)})
}

// read reads the file. Its error is about reading alone.
func (c *auditCheck) read(r io.Reader) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxAuditLine)
	scanner.Split(scanWholeLines)
	for scanner.Scan() {
		c.line++
		c.checkLine(scanner.Bytes())
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		c.find(c.line+1, "the line has more than %d bytes; the rest was not read", maxAuditLine)
		return nil
	}
	return scanner.Err()
}

// scanWholeLines is bufio.ScanLines without its leniency: a carriage return is
// a part of the line, and so is the newline, which the last line can lack.
func scanWholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func (c *auditCheck) checkLine(line []byte) {
	if c.ended {
		c.find(c.line, "it comes after the last line of the export")
		return
	}
	line, whole := bytes.CutSuffix(line, []byte("\n"))
	unsealed, hash, err := unseal(line)
	if err == nil && !whole {
		err = errors.New("the newline at its end is missing")
	}
	if err != nil {
		c.find(c.line, "it was altered: %v", err)
		c.previous = ""
		c.placeBroken(line)
		return
	}
	c.sealed++
	// A line without a hash leaves nothing to compare with. It was found itself.
	fits := auditHash(c.previous, unsealed) == hash || c.previous == "" && c.line > 1
	c.previous = hash
	switch {
	case c.line == 1:
		c.checkHeader(unsealed, fits)
	case bytes.HasPrefix(unsealed, []byte(`{"end":`)):
		c.checkEnd(unsealed, hash, fits)
	default:
		c.checkRecord(unsealed, hash, fits)
	}
}

// placeBroken counts a record whose line was found already, so that it is not
// missed as well.
func (c *auditCheck) placeBroken(line []byte) {
	var record api.LogRecord
	if json.Unmarshal(line, &record) == nil && record.Sequence > 0 {
		c.records++
		c.place(record, "")
	}
}

func (c *auditCheck) checkHeader(unsealed []byte, fits bool) {
	var header auditHeader
	switch err := strictJSON(unsealed, &header); {
	case err != nil || header.Format == "":
		c.find(c.line, "it is no header of an exported log")
	case header.Format != auditFormat:
		c.find(c.line, "the file has the format %q, this version reads %q", header.Format, auditFormat)
	case !fits:
		c.find(c.line, "it was altered, or a line before it was removed")
	}
}

func (c *auditCheck) checkRecord(unsealed []byte, hash string, fits bool) {
	var record api.LogRecord
	if err := strictJSON(unsealed, &record); err != nil {
		c.find(c.line, "it is no record")
		return
	}
	c.records++
	odd := c.place(record, hash)
	switch {
	case odd != "":
		c.find(c.line, "%s", odd)
	case !fits:
		c.find(c.line, "it was altered, or moved here, or a line before it was removed, inserted or moved")
	}
}

// place puts a record in its repository, and says what is odd about its place.
func (c *auditCheck) place(record api.LogRecord, hash string) (odd string) {
	name, sequence := record.Repository, record.Sequence
	n := len(c.sums)
	if n == 0 || c.sums[n-1].Repository != name {
		for _, earlier := range c.sums {
			if earlier.Repository == name {
				odd = fmt.Sprintf("record %d of %s is out of order or was inserted: the repository's records are further up", sequence, printable(name))
			}
		}
		if odd != "" {
			return odd
		}
		c.sums = append(c.sums, auditRecordSum{Repository: name, Records: 1, Hash: hash})
		c.spans = append(c.spans, auditSpan{firstLine: c.line, first: sequence, last: sequence})
		return ""
	}
	sum, span := &c.sums[n-1], &c.spans[n-1]
	sum.Records++
	sum.Hash = hash
	switch {
	case sequence == span.last+1:
	case sequence <= span.last:
		// The highest stays: what follows is compared with that.
		return fmt.Sprintf("record %d of %s is out of order or was inserted: it comes after record %d", sequence, printable(name), span.last)
	default:
		odd = missing(name, span.last+1, sequence-1)
	}
	span.last = sequence
	return odd
}

func missing(repository string, first, last uint64) string {
	if first == last {
		return fmt.Sprintf("record %d of %s is missing before it", first, printable(repository))
	}
	return fmt.Sprintf("records %d to %d of %s are missing before it", first, last, printable(repository))
}

func (c *auditCheck) checkEnd(unsealed []byte, hash string, fits bool) {
	c.ended, c.final = true, hash
	var end auditEnd
	if err := strictJSON(unsealed, &end); err != nil || !end.End {
		c.find(c.line, "it is no last line of an exported log")
		return
	}
	if !fits {
		c.find(c.line, "it was altered, or a line before it was removed, inserted or moved")
	}
	if end.Records != c.records {
		c.find(c.line, "it counts %s, the file has %d", count(end.Records, "record"), c.records)
	}
	c.compare(end.Repositories)
}

// compare holds what the last line says of each repository against its records.
func (c *auditCheck) compare(want []auditRecordSum) {
	have := make(map[string]int, len(c.sums))
	for i, sum := range c.sums {
		have[sum.Repository] = i
	}
	for _, w := range want {
		i, found := have[w.Repository]
		delete(have, w.Repository)
		switch {
		case !found && w.Records > 0:
			c.find(c.line, "all %d records of %s are missing", w.Records, printable(w.Repository))
		case !found:
		case c.spans[i].first <= w.Trimmed:
			c.find(c.spans[i].firstLine, "record %d of %s had been trimmed before the export", c.spans[i].first, printable(w.Repository))
		case c.spans[i].first != w.Trimmed+1:
			c.find(c.spans[i].firstLine, "%s", missing(w.Repository, w.Trimmed+1, c.spans[i].first-1))
		case c.sums[i].Records != w.Records || c.sums[i].Hash != w.Hash:
			c.find(c.line, "it counts %s of %s, the last with another hash than the file has", count(w.Records, "record"), printable(w.Repository))
		}
	}
	for name := range have {
		c.find(c.line, "it does not know %s, which has records in the file", printable(name))
	}
}

// finish checks what only the whole file shows. The hash is the one that the
// export printed, empty if it is not known.
func (c *auditCheck) finish(hash string) {
	switch {
	case c.line == 0:
		c.find(0, "the file is empty")
	case !c.ended:
		c.find(c.line, "the file is cut off here: the last line of the export is missing")
	}
	if hash != "" && c.final != hash {
		c.find(c.line, "the final hash is %s, not the one given: this is another export, or the file was made anew", dash(c.final))
	}
}

// strictJSON is json.Unmarshal that accepts no other fields.
func strictJSON(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("more than one value")
	}
	return nil
}

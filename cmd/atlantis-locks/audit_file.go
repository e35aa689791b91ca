package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// An audit file has a header, the log records of each repository in the order
// of their sequences, and a last line. Each line is a JSON object that ends
// with its hash: the SHA-256 of the hash of the line before (nothing before the
// header) followed by the line without its hash field.

// auditFormat is the format that this program writes and reads.
const auditFormat = "atlantis-locks-audit/1"

// auditHeader is the first line.
type auditHeader struct {
	Format       string            `json:"format"`
	ExportedAt   time.Time         `json:"exported_at"`
	Server       string            `json:"server"`
	Repositories []auditRepository `json:"repositories"`
}

// auditRepository names a repository, and the sequence up to which its log had
// been trimmed.
type auditRepository struct {
	Repository string `json:"repository"`
	Trimmed    uint64 `json:"trimmed"`
}

// auditEnd is the last line.
type auditEnd struct {
	End          bool             `json:"end"`
	Records      int              `json:"records"`
	Repositories []auditRecordSum `json:"repositories"`
}

// auditRecordSum is what a file has of one repository. Trimmed is as of when
// its records were read; Hash is the last record's, empty without any.
type auditRecordSum struct {
	Repository string `json:"repository"`
	Trimmed    uint64 `json:"trimmed"`
	Records    int    `json:"records"`
	Hash       string `json:"hash"`
}

// auditWriter writes an audit file.
type auditWriter struct {
	w    io.Writer
	hash string // of the line before
	end  auditEnd
}

func newAuditWriter(w io.Writer, header auditHeader) (*auditWriter, error) {
	a := &auditWriter{w: w, end: auditEnd{End: true, Repositories: []auditRecordSum{}}}
	header.Format = auditFormat
	return a, a.write(header)
}

// repository begins the records of a repository.
func (a *auditWriter) repository(name string, trimmed uint64) {
	a.end.Repositories = append(a.end.Repositories, auditRecordSum{Repository: name, Trimmed: trimmed})
}

// record writes a record of the repository that was begun last.
func (a *auditWriter) record(r api.LogRecord) error {
	if err := a.write(r); err != nil {
		return err
	}
	sum := &a.end.Repositories[len(a.end.Repositories)-1]
	sum.Records++
	sum.Hash = a.hash
	a.end.Records++
	return nil
}

// finish writes the last line and returns its hash.
func (a *auditWriter) finish() (string, error) {
	err := a.write(a.end)
	return a.hash, err
}

func (a *auditWriter) write(v any) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	unsealed := bytes.TrimSuffix(line.Bytes(), []byte("\n"))
	a.hash = auditHash(a.hash, unsealed)
	_, err := a.w.Write(append(seal(unsealed, a.hash), '\n'))
	return err
}

// auditHash is the hash of a line.
func auditHash(previous string, unsealed []byte) string {
	sum := sha256.New()
	sum.Write([]byte(previous))
	sum.Write(unsealed)
	return hex.EncodeToString(sum.Sum(nil))
}

const (
	hashField = `,"hash":"`
	// sealLength is the length of what seal adds to a line.
	sealLength = len(hashField) + 2*sha256.Size + 1
)

// seal adds the hash to a line, as its last field.
func seal(unsealed []byte, hash string) []byte {
	body := bytes.TrimSuffix(unsealed, []byte("}"))
	return append(append(bytes.Clone(body), hashField+hash...), `"}`...)
}

// unseal reverses seal.
func unseal(line []byte) (unsealed []byte, hash string, err error) {
	at := len(line) - sealLength - 1
	if at < 1 || !bytes.HasPrefix(line[at:], []byte(hashField)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return nil, "", errors.New("it does not end with a hash")
	}
	hash = string(line[at+len(hashField) : len(line)-2])
	if !isHash(hash) {
		return nil, "", errors.New("it does not end with a hash")
	}
	return append(bytes.Clone(line[:at]), '}'), hash, nil
}

func isHash(text string) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && len(decoded) == sha256.Size && hex.EncodeToString(decoded) == text
}

package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

// exported makes an export of two repositories, one of them trimmed, and a
// third without records.
func exported(t *testing.T) (file []byte, hash string) {
	t.Helper()
	var b bytes.Buffer
	a, err := newAuditWriter(&b, auditHeader{ExportedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Server: "http://localhost"})
	require.NoError(t, err)
	for i, name := range []string{"acme/app", "acme/infra"} {
		first := uint64(1 + 40*i)
		a.repository(name, first-1)
		for i := range uint64(4) {
			require.NoError(t, a.record(api.LogRecord{
				Repository: name, Sequence: first + i, Type: "acquired", Actor: "user:<alice>", Reason: "a \"reason\"",
				After: &api.LockState{OwnerID: "user:alice", Token: "5"},
			}))
		}
	}
	a.repository("acme/none", 7)
	hash, err = a.finish()
	require.NoError(t, err)
	return b.Bytes(), hash
}

func check(t *testing.T, file []byte, hash string) []auditFinding {
	t.Helper()
	c := newAuditCheck()
	require.NoError(t, c.read(bytes.NewReader(file)))
	c.finish(hash)
	return c.findings
}

func TestAuditUnchanged(t *testing.T) {
	file, hash := exported(t)
	require.Empty(t, check(t, file, ""))
	require.Empty(t, check(t, file, hash))
	require.Len(t, bytes.Split(file, []byte("\n")), 11)
	require.Contains(t, string(file), `"user:<alice>"`, "names can be searched for")
}

// One damaged line is one finding.
func TestAuditDamagedHash(t *testing.T) {
	file, _ := exported(t)
	at := bytes.Index(file, []byte(`"acme/app","sequence":2`))
	at += bytes.Index(file[at:], []byte(hashField)) + len(hashField)
	file[at] = 'x'
	require.Equal(t, []auditFinding{{Line: 3, What: "it was altered: it does not end with a hash"}}, check(t, file, ""))
}

// Whatever byte is changed, the first finding names its line.
func TestAuditFindsEveryAlteredByte(t *testing.T) {
	file, _ := exported(t)
	line := 1
	for i := range file {
		for _, with := range []byte{file[i] ^ 1, '"', ' '} {
			if with == file[i] {
				continue
			}
			altered := bytes.Clone(file)
			altered[i] = with
			findings := check(t, altered, "")
			require.NotEmpty(t, findings, "byte %d", i)
			require.Equal(t, line, findings[0].Line, "byte %d: %+v", i, findings)
		}
		if file[i] == '\n' {
			line++
		}
	}
}

func TestAuditFindsEveryCut(t *testing.T) {
	file, _ := exported(t)
	for i := range file {
		require.NotEmpty(t, check(t, file[:i], ""), "at byte %d", i)
		if i > 0 {
			require.NotEmpty(t, check(t, file[i:], ""), "before byte %d", i)
		}
	}
}

// rechained edits the lines of a file and makes their hashes anew, so that they fit.
func rechained(t *testing.T, file []byte, edit func(lines []string) []string) []byte {
	t.Helper()
	var out []byte
	previous := ""
	for _, line := range edit(strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")) {
		unsealed, _, err := unseal([]byte(line))
		require.NoError(t, err)
		previous = auditHash(previous, unsealed)
		out = append(append(out, seal(unsealed, previous)...), '\n')
	}
	return out
}

func TestAuditFindsEveryMovedLine(t *testing.T) {
	file, _ := exported(t)
	n := bytes.Count(file, []byte("\n"))
	whole := strings.SplitAfter(string(file), "\n")[:n]
	for i := range n {
		removed := strings.Join(slices.Delete(slices.Clone(whole), i, i+1), "")
		findings := check(t, []byte(removed), "")
		require.NotEmpty(t, findings, "line %d removed", i+1)
		require.InDelta(t, i+1, findings[0].Line, 1, "line %d removed: %+v", i+1, findings)
		for j := range n {
			inserted := strings.Join(slices.Insert(slices.Clone(whole), j, whole[i]), "")
			findings := check(t, []byte(inserted), "")
			require.NotEmpty(t, findings, "line %d again before line %d", i+1, j+1)
			require.InDelta(t, j+1, findings[0].Line, 1, "line %d again before line %d: %+v", i+1, j+1, findings)
			if i < j {
				swapped := slices.Clone(whole)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				findings := check(t, []byte(strings.Join(swapped, "")), "")
				require.NotEmpty(t, findings, "lines %d and %d swapped", i+1, j+1)
				require.Equal(t, i+1, findings[0].Line, "lines %d and %d swapped: %+v", i+1, j+1, findings)
			}
		}
	}
}

// Sequences, counts and sums are found wrong even where all hashes fit.
func TestAuditFindsChangesInAFileMadeAnew(t *testing.T) {
	file, _ := exported(t)
	without := func(record string) func([]string) []string {
		return func(l []string) []string {
			return slices.DeleteFunc(l, func(line string) bool { return strings.HasPrefix(line, record) })
		}
	}
	in := func(line int, old, replacement string) func([]string) []string {
		return func(l []string) []string {
			if line < 0 {
				line += len(l)
			}
			require.Contains(t, l[line], old)
			l[line] = strings.Replace(l[line], old, replacement, 1)
			return l
		}
	}
	for name, c := range map[string]struct {
		edit func([]string) []string
		says string
	}{
		"a record gone":           {without(`{"repository":"acme/app","sequence":2`), "record 2 of acme/app is missing before it"},
		"a first record gone":     {without(`{"repository":"acme/infra","sequence":41`), "record 41 of acme/infra is missing before it"},
		"a last record gone":      {without(`{"repository":"acme/infra","sequence":44`), "it counts 8 records, the file has 7"},
		"a repository gone":       {without(`{"repository":"acme/app"`), "all 4 records of acme/app are missing"},
		"a last record altered":   {in(-2, "alice", "eve"), "the last with another hash than the file has"},
		"another beginning":       {in(-1, `"trimmed":40`, `"trimmed":41`), "record 41 of acme/infra had been trimmed before the export"},
		"another repository":      {in(-1, `"acme/app"`, `"acme/zzz"`), "it does not know acme/app"},
		"a record after the end":  {func(l []string) []string { return append(l, strings.Replace(l[2], "acme/app", "acme/zzz", 1)) }, "it comes after the last line"},
		"a repository in two":     {func(l []string) []string { last := l[4]; return slices.Insert(slices.Delete(l, 4, 5), 8, last) }, "record 4 of acme/app is out of order"},
		"a field that is no such": {in(2, `"type"`, `"x":1,"type"`), "it is no record"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, says(check(t, rechained(t, file, c.edit), "")), c.says)
		})
	}
}

// The limit that the documentation states: a file that is made anew as a whole
// is found by the hash that was kept elsewhere, and by nothing else.
func TestAuditMadeAnewIsFoundByItsHashAlone(t *testing.T) {
	file, hash := exported(t)
	var b bytes.Buffer
	a, err := newAuditWriter(&b, auditHeader{})
	require.NoError(t, err)
	a.repository("acme/app", 0)
	require.NoError(t, a.record(api.LogRecord{Repository: "acme/app", Sequence: 1, Actor: "user:eve"}))
	_, err = a.finish()
	require.NoError(t, err)
	require.NotEqual(t, file, b.Bytes())
	require.Empty(t, check(t, b.Bytes(), ""))
	findings := check(t, b.Bytes(), hash)
	require.Len(t, findings, 1)
	require.Contains(t, findings[0].What, "made anew")
}

func TestAuditOtherFormats(t *testing.T) {
	file, _ := exported(t)
	other := rechained(t, file, func(l []string) []string {
		l[0] = strings.Replace(l[0], auditFormat, "atlantis-locks-audit/2", 1)
		return l
	})
	require.Contains(t, says(check(t, other, "")), `the file has the format "atlantis-locks-audit/2"`)
	require.NotEmpty(t, check(t, []byte("hello\n"), ""))
	require.NotEmpty(t, check(t, nil, ""))
	long := append(bytes.Repeat([]byte("x"), maxAuditLine+1), '\n')
	require.Contains(t, says(check(t, long, "")), "the rest was not read")
}

func says(findings []auditFinding) string {
	text, err := json.Marshal(findings)
	if err != nil {
		panic(err)
	}
	return strings.ReplaceAll(string(text), `\"`, `"`)
}

func FuzzAuditCheck(f *testing.F) {
	f.Add([]byte(`{"format":"atlantis-locks-audit/1","hash":"x"}`))
	f.Add([]byte("{}\n\n\r\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		require.NotEmpty(t, check(t, append(file, "\nx"...), ""))
	})
}

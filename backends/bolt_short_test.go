package backends

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestRecordsAreShortInTheFile(t *testing.T) {
	t.Parallel()
	const id = "01a2280e-db2b-79bb-b23f-81fb7fa3af2d"
	record := &lockRecord{Token: 1795971730146915, Owner: "pr:github.com/org%2Fapp/5", Acquired: 1795971730146857, Request: id, Mirror: "x"}
	data, err := encodeLockRecord("org/app", record)
	require.NoError(t, err)
	require.JSONEq(t, `{"n":"1795971730146915","s":"x","h":"github.com/5","w":58,"u":"AaIoDtsrebuyP4H7f6OvLQ"}`, string(data))
	again, err := decodeLockRecord("org/app", data)
	require.NoError(t, err)
	require.Equal(t, record, again)

	entry := logRecord{
		Time: 1795971730146857, Type: enhanced.EventAcquired, Token: record.Token, Resource: "project/a/default/", Request: id,
		Actor: record.Owner, Cause: enhanced.CauseRequest, After: record.logSummary(),
	}
	data, err = encodeLogRecord("org/app", entry)
	require.NoError(t, err)
	require.JSONEq(t, `{"t":1795971730146857,"e":"acquired","r":"project/a/default/","z":{"h":"github.com/5"},"k":58,"s":"AaIoDtsrebuyP4H7f6OvLQ"}`, string(data))
	read, err := decodeLogRecord("org/app", 1, data)
	require.NoError(t, err)
	require.Equal(t, record.Token, read.Token)
	require.Equal(t, record.summary(), read.After)
	require.Equal(t, []string{record.Owner, id, enhanced.CauseRequest}, []string{read.Actor, read.RequestID, read.Cause})
	require.Equal(t, record.Owner, entry.After.Owner, "what is encoded is changed")
}

// What can't be shortened stays as it is.
func TestLongFormsOfRecords(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]*lockRecord{
		"user":                        {Token: 5, Owner: "user:a", Acquired: 7, Request: "id", Mirror: "x"},
		"pull of another repository":  {Token: 5, Owner: "pr:h/o%2Felse/5", Acquired: 7, Mirror: "x"},
		"pull of no host":             {Token: 5, Owner: "pr:/org%2Fapp/5", Acquired: 7, Mirror: "x"},
		"host with a slash":           {Token: 5, Owner: "pr:h%2Fx/org%2Fapp/5", Acquired: 7, Mirror: "x"},
		"at once":                     {Token: 7, Owner: "user:a", Acquired: 7, Mirror: "x"},
		"long before":                 {Token: 1795971730146915, Owner: "user:a", Acquired: 7, Mirror: "x"},
		"UUID in another form":        {Token: 5, Owner: "user:a", Acquired: 7, Request: "01A2280E-DB2B-79BB-B23F-81FB7FA3AF2D", Mirror: "x"},
		"UUID without dashes":         {Token: 5, Owner: "user:a", Acquired: 7, Request: "01a2280edb2b79bbb23f81fb7fa3af2d", Mirror: "x"},
		"like the short form of UUID": {Token: 5, Owner: "user:a", Acquired: 7, Request: "AaIoDtsrebuyP4H7f6OvLQ", Mirror: "x"},
	} {
		data, err := encodeLockRecord("org/app", record)
		require.NoError(t, err, name)
		again, err := decodeLockRecord("org/app", data)
		require.NoError(t, err, name)
		require.Equal(t, record, again, name)
	}
}

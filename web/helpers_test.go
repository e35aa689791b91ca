package web_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quote returns text as JSON.
func quote(t *testing.T, text string) string {
	t.Helper()
	encoded, err := json.Marshal(text)
	require.NoError(t, err)
	return string(encoded)
}

// withID puts a lock's ID where a test's body says ID.
func withID(body, id string) string { return strings.Replace(body, `"ID"`, `"`+id+`"`, 1) }

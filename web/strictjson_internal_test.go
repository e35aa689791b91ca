package web

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What decodeJSON accepts, json.Unmarshal accepts too, with the same result;
// and no text in it has become another one.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `null`, `"\ud83d\ude00"`, `"\ud800"`, `"\\ud800"`, `"\\\ud800"`, `{"a":1,"a":2}`, `{"a":1,"A":2}`,
		`{"a":{"b":[{"a":1},{"a":2}]},"b":"\u0000"}`, `{"k":1,"` + "\u212a" + `":2}`, "\"\xff\"", `"\ufffd"`, `{}{}`, `{"a":1e400}`,
		strings.Repeat("[", 31) + strings.Repeat("]", 31), strings.Repeat("[", 32) + strings.Repeat("]", 32), `"\u`, `"\ud800\u`, `\`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, lenient any
		if decodeJSON(data, &strict) != nil {
			return
		}
		require.NoError(t, json.Unmarshal(data, &lenient))
		require.Equal(t, lenient, strict)
		// U+FFFD in the result was U+FFFD in the source.
		encoded, err := json.Marshal(strict)
		require.NoError(t, err)
		if strings.Contains(string(encoded), "\ufffd") {
			source := strings.ToLower(string(data))
			require.True(t, strings.Contains(source, "\ufffd") || strings.Contains(source, `\ufffd`))
		}
	})
}

func TestNestingLimit(t *testing.T) {
	var v any
	require.NoError(t, decodeJSON([]byte(strings.Repeat("[", maxDepth-1)+strings.Repeat("]", maxDepth-1)), &v))
	require.ErrorContains(t, decodeJSON([]byte(strings.Repeat("[", maxDepth)+strings.Repeat("]", maxDepth)), &v), "nested deeper")
}

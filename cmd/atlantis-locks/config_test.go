package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseConfig(t *testing.T) {
	t.Parallel()
	entries, err := parseConfig([]byte("\ufeffa: 010\nb: [x, 'y,z']\nc: ''\nd: []\n"))
	require.NoError(t, err)
	require.Equal(t, []configEntry{
		{name: "a", values: []string{"010"}, line: 1},
		{name: "b", values: []string{"x", "y,z"}, line: 2},
		{name: "c", values: []string{""}, line: 3},
		{name: "d", line: 4},
	}, entries)
	for _, same := range []string{"", "# none\n", "---\n", "~\n"} {
		entries, err := parseConfig([]byte(same))
		require.NoError(t, err, same)
		require.Empty(t, entries, same)
	}
	// What stands for something else is not followed.
	entries, err = parseConfig([]byte("a: &x 1\nb: *x\n<<: {c: 2}\n"))
	require.NoError(t, err)
	require.Len(t, entries, 3)
	require.ErrorContains(t, entries[1].err, "takes a value")
	require.Equal(t, "<<", entries[2].name)
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("backend: redis\nredis-addr: [a:1, b:2]\n"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		entries, err := parseConfig(file)
		if err != nil {
			require.Nil(t, entries)
		}
		for _, e := range entries {
			require.Positive(t, e.line)
			if e.err != nil {
				require.Nil(t, e.values)
			}
		}
	})
}

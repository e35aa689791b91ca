package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const output = `go: 1.26.8
cores: 2
redis: 7.0.15
module-b: example.org/b v2.0.0
module-a: example.org/a v1.0.0
goos: linux
cpu: Some Processor
BenchmarkPair/store=adapter/callers=16-2   	 100	 40000 ns/op	 25000 pairs/s	 900000 p95-ns	 30000 client-cpu-ns/op	 20 allocs/op
BenchmarkPair/store=redsync/callers=16-2   	 100	 50000 ns/op	 20000 pairs/s	 800000 p95-ns	 60000 client-cpu-ns/op	 51 allocs/op
BenchmarkPair/store=adapter/callers=128-2  	 100	 40000 ns/op	 40000 pairs/s	 900000 p95-ns	 30000 client-cpu-ns/op
BenchmarkContended/store=adapter/callers=16-2  	 100	 40000 ns/op	 700 pairs/s
BenchmarkCluster/primaries=6/callers=128-2	 100	 40000 ns/op	 9000 pairs/s	 20000 client-cpu-ns/op	 60000 server-cpu-ns/op	 12500 busiest-cpu-ns/op	 1500 received-B/op	 500 sent-B/op
PASS
ok  	example.org/bench	1.0s
BenchmarkPair/store=adapter/callers=16-2   	 100	 40000 ns/op	 35000 pairs/s	 950000 p95-ns	 30000 client-cpu-ns/op	 20 allocs/op
BenchmarkPair/store=redsync/callers=16-2   	 100	 50000 ns/op	 20000 pairs/s	 800000 p95-ns	 60000 client-cpu-ns/op	 51 allocs/op
BenchmarkPair/store=adapter/callers=16-2   	 100	 40000 ns/op	 26000 pairs/s	 990000 p95-ns	 30000 client-cpu-ns/op	 20 allocs/op
`

// row returns the cells of the line of a table that starts with these.
func row(t *testing.T, text string, first ...string) []string {
	t.Helper()
	for line := range strings.Lines(text) {
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		if len(cells) > len(first) && strings.Join(cells[:len(first)], "|") == strings.Join(first, "|") {
			return cells[len(first):]
		}
	}
	t.Fatalf("no line %q in\n%s", first, text)
	return nil
}

func TestPage(t *testing.T) {
	t.Parallel()
	r, err := read(strings.NewReader(output))
	require.NoError(t, err)
	content, err := page(r, "make bench-redis COUNT=3")
	require.NoError(t, err)
	text := string(content)

	require.Contains(t, text, "\nmake bench-redis COUNT=3\n")
	require.Contains(t, text, "| processor | Some Processor, 2 cores,")
	require.Contains(t, text, "| rounds | 3;")
	require.Contains(t, text, "| module | example.org/a v1.0.0 |\n| module | example.org/b v2.0.0 |\n")
	require.Contains(t, text, "\n### 16 callers\n")

	_, sixteen, _ := strings.Cut(text, "\n### 16 callers\n")
	// The middle of three rounds, their lowest and highest; what was not measured is empty.
	require.Equal(t, []string{"26,000 (25,000 to 35,000)", "", "950", "", "30"}, row(t, sixteen, "adapter")[:5])
	require.Equal(t, []string{"20,000 (20,000 to 20,000)", "", "800", "", "60"}, row(t, sixteen, "redsync")[:5])

	require.Equal(t, []string{"at least 1.4", "1.3", "**no**"}, row(t, text, "pairs/s with 16 callers, as a multiple of redsync"))
	require.Equal(t, []string{"at least 50,000", "52,000", "yes"}, row(t, text, "operations/s with 16 callers (a pair is two)"))
	require.Equal(t, []string{"at most 1,000", "950", "yes"}, row(t, text, "p95 of an acquire with 16 callers, µs"))
	require.NotContains(t, text, "as a multiple of stock", "nothing was measured to compare with")

	_, cluster, _ := strings.Cut(text, "\n## Redis Cluster\n")
	require.Equal(t, []string{"9,000", "20", "60", "12.5", "80,000", "160,000", "1.6", "160"}, row(t, cluster, "6"))
}

func TestRunWritesPageAndPlots(t *testing.T) {
	t.Parallel()
	docs, input := t.TempDir(), filepath.Join(t.TempDir(), "results.txt")
	require.NoError(t, os.WriteFile(input, []byte(output), 0o600))
	var printed bytes.Buffer
	require.NoError(t, run(&printed, docs, "make bench-redis", []string{input}))
	written, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	require.NoError(t, err)
	require.Equal(t, printed.String(), string(written))
	links := 0
	for part := range strings.SplitSeq(string(written), "](") {
		if name, _, found := strings.Cut(part, ".svg)"); found {
			links++
			plot, err := os.ReadFile(filepath.Join(docs, name+".svg"))
			require.NoError(t, err)
			require.Contains(t, string(plot), "<svg")
			require.Contains(t, string(plot), ">adapter", name)
		}
	}
	require.Equal(t, 4, links)
	files, err := os.ReadDir(docs)
	require.NoError(t, err)
	require.Len(t, files, 1+links, "a plot that the page does not show")
}

func TestRunWritesNothingForWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":   "",
		"failed":  output + "--- FAIL: BenchmarkHeld\n",
		"cut off": output + "BenchmarkHeld/store=adapter-2 100 40\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			docs, input := t.TempDir(), filepath.Join(t.TempDir(), "results.txt")
			require.NoError(t, os.WriteFile(input, []byte(text), 0o600))
			require.Error(t, run(&bytes.Buffer{}, docs, "make bench-redis", []string{input}))
			files, err := os.ReadDir(docs)
			require.NoError(t, err)
			require.Empty(t, files)
		})
	}
}

func TestDigits(t *testing.T) {
	t.Parallel()
	for value, text := range map[float64]string{
		0: "0", 0.012345: "0.0123", 1.5: "1.5", 99.96: "100", 1234.5: "1,230", 1_234_567: "1,230,000", 100: "100", 50_000: "50,000",
	} {
		require.Equal(t, text, digits(value))
	}
}

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// column is one of a table of results.
type column struct {
	title string
	unit  string
	// per divides, to show microseconds where nanoseconds were measured.
	per float64
}

// pairColumns are those of most tables: what a pair of acquire and release costs.
func pairColumns() []column {
	return []column{
		{"pairs/s", "pairs/s", 1},
		{"acquire p50 µs", "p50-ns", 1e3},
		{"p95 µs", "p95-ns", 1e3},
		{"p99 µs", "p99-ns", 1e3},
		{"client CPU µs", "client-cpu-ns/op", 1e3},
		{"server CPU µs", "server-cpu-ns/op", 1e3},
		{"scripts µs", "script-ns/op", 1e3},
		{"longest ms", "longest-ns", 1e6},
		{"bytes to server", "received-B/op", 1},
		{"from server", "sent-B/op", 1},
		{"allocations", "allocs/op", 1},
		{"allocated B", "B/op", 1},
	}
}

// table has one row for each result, and the values of labels before the columns.
func table(rows []*result, labels []string, columns []column) (string, error) {
	titles := append([]string(nil), labels...)
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	var cells [][]string
	for _, row := range rows {
		var line []string
		for _, label := range labels {
			line = append(line, row.labels[label])
		}
		for _, c := range columns {
			line = append(line, cell(row, c))
		}
		cells = append(cells, line)
	}
	return markdown(titles, cells, len(labels))
}

// cell is a median; a throughput also says how far apart the rounds were.
func cell(row *result, c column) string {
	value, measured := row.median(c.unit)
	if !measured {
		return ""
	}
	text := digits(value / c.per)
	if strings.HasSuffix(c.unit, "/s") && len(row.values[c.unit]) > 1 {
		lowest, highest := row.spread(c.unit)
		text += fmt.Sprintf(" (%s to %s)", digits(lowest/c.per), digits(highest/c.per))
	}
	return text
}

// digits has three significant digits, and thousands apart.
func digits(value float64) string {
	if value == 0 {
		return "0"
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(value))))
	if scale >= 1 {
		return strconv.FormatFloat(math.Round(value*scale)/scale, 'f', -1, 64)
	}
	text := strconv.FormatFloat(math.Round(value*scale)/scale, 'f', 0, 64)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// markdown is a table whose first columns are text and all others numbers.
func markdown(titles []string, rows [][]string, texts int) (string, error) {
	if len(rows) == 0 {
		return "Not measured in this run.\n", nil
	}
	alignment := make(tw.Alignment, len(titles))
	for i := range alignment {
		alignment[i] = tw.AlignRight
		if i < texts {
			alignment[i] = tw.AlignLeft
		}
	}
	var text strings.Builder
	t := tablewriter.NewTable(&text,
		tablewriter.WithRenderer(renderer.NewMarkdown()), tablewriter.WithAlignment(alignment),
		tablewriter.WithHeaderAutoFormat(tw.Off), tablewriter.WithRowAutoWrap(tw.WrapNone))
	t.Header(titles)
	if err := t.Bulk(rows); err != nil {
		return "", err
	}
	if err := t.Render(); err != nil {
		return "", err
	}
	return text.String(), nil
}

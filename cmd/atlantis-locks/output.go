package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

const outputFlag = "output"

// The formats of --output.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// format is the value of --output.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(text string) error {
	if text != formatTable && text != formatJSON {
		return fmt.Errorf("it is %s or %s", formatTable, formatJSON)
	}
	*f = format(text)
	return nil
}

func addOutputFlag(cmd *cobra.Command) *format {
	f := format(formatTable)
	cmd.Flags().VarP(&f, outputFlag, "o", "table for people, json for programs: its field names are stable")
	return &f
}

// wantsJSON reports whether the command was called with --output json.
func wantsJSON(cmd *cobra.Command) bool {
	flag := cmd.Flags().Lookup(outputFlag)
	return flag != nil && flag.Value.String() == formatJSON
}

// printJSON writes one indented JSON value.
func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// printTable writes rows in columns; the first row is the header. Cells are to
// be printable.
func printTable(w io.Writer, rows [][]string) error {
	return printColumns(w, 3, rows)
}

// printFields writes pairs of a name and a value.
func printFields(w io.Writer, pairs [][]string) error {
	return printColumns(w, 2, pairs)
}

func printColumns(w io.Writer, padding int, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, padding, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t")) // Flush returns the error
	}
	return t.Flush()
}

// Command report makes docs/benchmarks.md and its plots of what the benchmarks
// of this module have printed, and prints the tables.
//
//	report -docs ../docs -command 'make bench-redis' results.txt
//
// It writes nothing when a result cannot be read.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	docs := flag.String("docs", "docs", "folder of benchmarks.md and its plots")
	command := flag.String("command", "make bench-redis", "what was run to get the results")
	flag.Parse()
	if err := run(os.Stdout, *docs, *command, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(print io.Writer, docs, command string, files []string) error {
	if len(files) == 0 {
		return errors.New("name the files with the benchmarks' output")
	}
	var text bytes.Buffer
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text.Write(content)
	}
	if bytes.Contains(text.Bytes(), []byte("--- FAIL")) {
		return errors.New("a benchmark has failed")
	}
	r, err := read(&text)
	if err != nil {
		return err
	}
	written, err := plots(r)
	if err != nil {
		return err
	}
	if written["benchmarks.md"], err = page(r, command); err != nil {
		return err
	}
	for name, content := range written {
		if err := os.WriteFile(filepath.Join(docs, name), content, 0o644); err != nil { //nolint:gosec // everybody may read it
			return err
		}
	}
	_, err = print.Write(written["benchmarks.md"])
	return err
}

package main

import (
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows people how far a command is.
type progress interface {
	add(n int)
	finish()
}

// newProgress returns a progress bar on w if it is a terminal, else one that
// shows nothing: logs and pipes get no control characters.
func newProgress(w io.Writer, total int, doing string) progress {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return noProgress{}
	}
	b := bar{progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(doing),
		progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(),
	)}
	_ = b.RenderBlank()
	return b
}

type noProgress struct{}

func (noProgress) add(int) {}
func (noProgress) finish() {}

// bar ignores errors: a terminal that is gone needs no progress.
type bar struct{ *progressbar.ProgressBar }

func (b bar) add(n int) { _ = b.Add(n) }
func (b bar) finish()   { _ = b.Finish() }

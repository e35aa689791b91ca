package main

import (
	"bytes"
	"fmt"
	"image/color"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	width, height = 18 * vg.Centimeter, 10 * vg.Centimeter
	margin        = 5 * vg.Millimeter
)

// plots draws all that was measured, by file name.
func plots(r *results) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, p := range []struct {
		name string
		draw func(r *results) (*plot.Plot, error)
	}{
		{"benchmarks-throughput.svg", func(r *results) (*plot.Plot, error) {
			return byCallers(r, "Pairs per second", "pairs/s", 1, false)
		}},
		{"benchmarks-p95.svg", func(r *results) (*plot.Plot, error) {
			return byCallers(r, "95th percentile of an acquire, ms", "p95-ns", 1e6, true)
		}},
		{"benchmarks-cpu.svg", func(r *results) (*plot.Plot, error) {
			rows := slices.DeleteFunc(r.where("Pair", "callers=128"), func(one *result) bool { return one.labels["store"] == "etcd" })
			return bars("CPU of one pair with 128 callers, µs", rows,
				column{"client", "client-cpu-ns/op", 1e3}, column{"server", "server-cpu-ns/op", 1e3})
		}},
		{"benchmarks-contended.svg", func(r *results) (*plot.Plot, error) {
			return bars("Pairs per second when 16 callers want one lock", r.where("Contended"), column{"", "pairs/s", 1})
		}},
	} {
		drawn, err := p.draw(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		canvas := vgsvg.New(width, height)
		drawn.Draw(draw.Crop(draw.New(canvas), margin, -2*margin, margin, -margin))
		var text bytes.Buffer
		if _, err := canvas.WriteTo(&text); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		files[p.name] = text.Bytes()
	}
	return files, nil
}

// colors can be told apart with the usual colour blindness: Okabe and Ito's
// (https://jfly.uni-koeln.de/color/).
func colors(i int) color.Color {
	palette := []color.Color{
		color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
		color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
		color.RGBA{0x00, 0x00, 0x00, 0xff},
	}
	return palette[i%len(palette)]
}

// byCallers has a line for each candidate that is not another one with the mirror.
func byCallers(r *results, title, unit string, per float64, logarithmic bool) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "callers"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.ConstantTicks(nil)
	var ticks []plot.Tick
	if logarithmic {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min, p.Y.Tick.Marker = 0, plainTicks{}
	}
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.Padding = true, true, vg.Points(5), vg.Points(2)
	for i, store := range slices.DeleteFunc(r.distinct("Pair", "store"), mirrored) {
		var line plotter.XYs
		for _, one := range r.where("Pair", "store="+store) {
			callers, err := strconv.ParseFloat(one.labels["callers"], 64)
			value, measured := one.median(unit)
			if err != nil || !measured {
				continue
			}
			line = append(line, plotter.XY{X: callers, Y: value / per})
			if tick := (plot.Tick{Value: callers, Label: one.labels["callers"]}); !slices.Contains(ticks, tick) {
				ticks = append(ticks, tick)
			}
		}
		if len(line) == 0 {
			continue
		}
		drawn, points, err := plotter.NewLinePoints(line)
		if err != nil {
			return nil, err
		}
		drawn.Color, drawn.Width, points.Color, points.Shape = colors(i), vg.Points(1.5), colors(i), draw.CircleGlyph{}
		if store == "adapter" || store == "manager" {
			drawn.Width = vg.Points(3)
		}
		p.Add(drawn, points)
		p.Legend.Add(store, drawn, points)
	}
	if len(ticks) > 0 {
		p.X.Tick.Marker = plot.ConstantTicks(ticks)
	}
	return p, nil
}

// plainTicks are the usual ticks with numbers as in the tables.
type plainTicks struct{}

// Ticks implements [plot.Ticker].
func (plainTicks) Ticks(lowest, highest float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(lowest, highest)
	for i := range ticks {
		if !ticks[i].IsMinor() {
			ticks[i].Label = digits(ticks[i].Value)
		}
	}
	return ticks
}

// padded leaves room for fonts that are wider than the one of which the library
// knows the widths.
func padded(name string) string { return name + strings.Repeat(" ", 1+len(name)/2) }

func mirrored(store string) bool { return store == "adapter-mirror" || store == "manager-mirror" }

// bars has one bar for each result, of parts on top of each other.
func bars(title string, rows []*result, parts ...column) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Min = 0
	p.X.Tick.Marker = plainTicks{}
	// The first one is at the bottom.
	rows = slices.Clone(rows)
	slices.Reverse(rows)
	var names []string
	for _, row := range rows {
		names = append(names, padded(row.labels["store"]))
	}
	var below *plotter.BarChart
	for i, part := range parts {
		var values plotter.Values
		for _, row := range rows {
			value, _ := row.median(part.unit)
			values = append(values, value/part.per)
		}
		if len(values) == 0 {
			continue
		}
		chart, err := plotter.NewBarChart(values, vg.Points(14))
		if err != nil {
			return nil, err
		}
		chart.Horizontal, chart.Color, chart.LineStyle.Width = true, colors(i), 0
		if below != nil {
			chart.StackOn(below)
		}
		below = chart
		p.Add(chart)
		if part.title != "" {
			p.Legend.Add(padded(part.title), chart)
		}
	}
	p.X.Max *= 1.2 // room for the legend
	if len(names) > 0 {
		p.NominalY(names...)
	}
	return p, nil
}

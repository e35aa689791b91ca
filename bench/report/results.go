package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// results are what benchmarks have printed, in the order of their first lines.
type results struct {
	// config says on what they ran. The first one counts: the load of later rounds
	// is that of earlier ones.
	config map[string]string
	order  []string
	all    map[string]*result
}

// result is one benchmark in all rounds.
type result struct {
	// labels are the parts of its name: "" is what is measured, such as Pair, and
	// all others are KEY=VALUE.
	labels map[string]string
	values map[string][]float64 // by unit
}

// read reads what go test -bench printed in one or more rounds.
func read(from io.Reader) (*results, error) {
	r := &results{config: make(map[string]string), all: make(map[string]*result)}
	reader := benchfmt.NewReader(from, "benchmarks")
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.Result:
			r.add(record)
		case *benchfmt.SyntaxError:
			return nil, record
		}
	}
	if err := reader.Err(); err != nil {
		return nil, err
	}
	if len(r.all) == 0 {
		return nil, errors.New("no benchmark has printed a result")
	}
	return r, nil
}

func (r *results) add(record *benchfmt.Result) {
	for _, config := range record.Config {
		if _, known := r.config[config.Key]; !known {
			r.config[config.Key] = strings.TrimSpace(string(config.Value))
		}
	}
	base, parts := record.Name.Parts()
	labels := map[string]string{"": string(base)}
	for _, part := range parts {
		if key, value, found := strings.Cut(strings.TrimPrefix(string(part), "/"), "="); found {
			labels[key] = value
		}
	}
	name := fmt.Sprint(labels) // in the order of the keys
	one := r.all[name]
	if one == nil {
		one = &result{labels: labels, values: make(map[string][]float64)}
		r.all[name], r.order = one, append(r.order, name)
	}
	for _, value := range record.Values {
		unit, amount := value.Unit, value.Value
		if value.OrigUnit != "" {
			unit, amount = value.OrigUnit, value.OrigValue
		}
		one.values[unit] = append(one.values[unit], amount)
	}
}

// where returns the results with these labels, KEY=VALUE, in their order.
func (r *results) where(what string, labels ...string) []*result {
	var found []*result
	for _, name := range r.order {
		one := r.all[name]
		if one.labels[""] == what && !slices.ContainsFunc(labels, func(label string) bool {
			key, value, _ := strings.Cut(label, "=")
			return one.labels[key] != value
		}) {
			found = append(found, one)
		}
	}
	return found
}

// distinct returns the values of a label, in their order.
func (r *results) distinct(what, key string) []string {
	var all []string
	for _, one := range r.where(what) {
		if value, found := one.labels[key]; found && !slices.Contains(all, value) {
			all = append(all, value)
		}
	}
	return all
}

// median is the middle one of all rounds; false says that it was not measured.
func (one *result) median(unit string) (float64, bool) {
	if one == nil || len(one.values[unit]) == 0 {
		return 0, false
	}
	sample := benchmath.NewSample(one.values[unit], &benchmath.DefaultThresholds)
	return benchmath.AssumeNothing.Summary(sample, 0.95).Center, true
}

// spread is the lowest and the highest of all rounds.
func (one *result) spread(unit string) (lowest, highest float64) {
	return slices.Min(one.values[unit]), slices.Max(one.values[unit])
}

// rounds is how often the benchmarks ran.
func (r *results) rounds() int {
	most := 0
	for one := range maps.Values(r.all) {
		for values := range maps.Values(one.values) {
			most = max(most, len(values))
		}
	}
	return most
}

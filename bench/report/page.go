package main

import (
	"bytes"
	_ "embed"
	"slices"
	"strings"
	"text/template"
)

//go:embed page.md.tmpl
var pageText string

// page is docs/benchmarks.md.
func page(r *results, command string) ([]byte, error) {
	functions := template.FuncMap{
		"config": func(key string) string { return r.config[key] },
		"rounds": r.rounds,
		"modules": func() []string {
			var all []string
			for key, value := range r.config {
				if strings.HasPrefix(key, "module-") {
					all = append(all, value)
				}
			}
			slices.Sort(all)
			return all
		},
		"reached": func() (string, error) { return reached(r) },
		"callers": func() []string { return r.distinct("Pair", "callers") },
		"pairs": func(callers string) (string, error) {
			return table(r.where("Pair", "callers="+callers), []string{"store"}, pairColumns())
		},
		"handovers": func() (string, error) {
			return table(r.where("HandOver"), []string{"waiters", "store"}, []column{
				{"hand-overs/s", "handovers/s", 1}, {"p50 µs", "p50-ns", 1e3}, {"p95 µs", "p95-ns", 1e3}, {"p99 µs", "p99-ns", 1e3},
				{"allocations", "allocs/op", 1}, {"allocated B", "B/op", 1},
			})
		},
		"contended": func() (string, error) { return table(r.where("Contended"), []string{"store"}, pairColumns()) },
		"floor": func() (string, error) {
			columns := append([]column{{"acquires/s", "acquires/s", 1}, {"releases/s", "releases/s", 1}}, pairColumns()[:7]...)
			return table(r.where("Floor"), []string{"pipelined", "callers"}, columns)
		},
		"held": func() (string, error) {
			columns := append(pairColumns()[:8], column{"lock B", "memory-B/lock", 1}, column{"log B", "log-B/lock", 1}, column{"client B", "client-B/lock", 1})
			return table(r.where("Held"), []string{"repositories", "store", "callers"}, columns)
		},
		"rest": func() (string, error) {
			return table(append(r.where("Rest"), r.where("Renew")...), []string{"", "store", "held", "leases"}, []column{
				{"client CPU %", "client-cpu-%", 1}, {"server CPU %", "server-cpu-%", 1}, {"network B/s", "net-B/s", 1},
			})
		},
		"cluster": func() (string, error) { return cluster(r) },
	}
	t, err := template.New("page").Funcs(functions).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, map[string]string{"Command": command}); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// cluster is what was measured, and what it means for machines apart.
func cluster(r *results) (string, error) {
	var rows [][]string
	for _, one := range r.where("Cluster") {
		pairs, _ := one.median("pairs/s")
		client, _ := one.median("client-cpu-ns/op")
		servers, _ := one.median("server-cpu-ns/op")
		busiest, several := one.median("busiest-cpu-ns/op")
		if !several {
			busiest = servers
		}
		in, _ := one.median("received-B/op")
		out, _ := one.median("sent-B/op")
		rate := 1e9 / busiest
		rows = append(rows, []string{
			one.labels["primaries"], digits(pairs), digits(client / 1e3), digits(servers / 1e3), digits(busiest / 1e3),
			digits(rate), digits(2 * rate), digits(rate * client / 1e9), digits(rate * (in + out) / 1e6),
		})
	}
	return markdown([]string{
		"primaries", "pairs/s here", "client CPU µs", "all servers' CPU µs", "the busiest's µs",
		"pairs/s apart", "operations/s apart", "client cores for it", "MB/s for it",
	}, rows, 1)
}

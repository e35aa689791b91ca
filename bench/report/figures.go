package main

import "fmt"

// ours is how Atlantis uses this project.
const ours = "store=adapter"

// figure is something that is to be reached.
type figure struct {
	what  string
	value func(r *results) (float64, bool)
	// least or, when it is 0, most is the bound.
	least, most float64
}

// figures are those that the project has set itself.
func figures() []figure {
	var all []figure
	add := func(least, most float64, what string, value func(r *results) (float64, bool)) {
		all = append(all, figure{what, value, least, most})
	}
	for _, f := range []struct {
		callers int
		other   string
		least   float64
	}{
		{128, "redsync", 2}, {128, "stock", 3.5}, {128, "redislock", 1.6},
		{16, "redsync", 1.4}, {16, "stock", 2.5}, {16, "redislock", 1.1},
		{1, "redislock", 0.8},
	} {
		callers := fmt.Sprint("callers=", f.callers)
		add(f.least, 0, fmt.Sprintf("pairs/s with %d callers, as a multiple of %s", f.callers, f.other),
			ratio(one("pairs/s", "Pair", ours, callers), one("pairs/s", "Pair", "store="+f.other, callers)))
	}
	add(0.8, 0, "pairs/s with 128 callers, as a share of redis-benchmark with our scripts, pipelined",
		ratio(one("pairs/s", "Pair", ours, "callers=128"), one("pairs/s", "Floor", "pipelined=16", "callers=128")))
	add(50_000, 0, "operations/s with 16 callers (a pair is two)", times(2, one("pairs/s", "Pair", ours, "callers=16")))
	add(0, 1_000, "p95 of an acquire with 16 callers, µs", times(1e-3, one("p95-ns", "Pair", ours, "callers=16")))
	for _, over := range []string{"50", "1"} {
		for _, callers := range []string{"callers=16", "callers=128"} {
			add(0.8, 0, fmt.Sprintf("pairs/s with 100,000 locks held in %s repositories, %s, as a share of none held", over, callers),
				ratio(one("pairs/s", "Held", ours, "repositories="+over, callers), one("pairs/s", "Pair", ours, callers)))
		}
		add(0, 2_000, fmt.Sprintf("bytes of Redis a lock without its log, 100,000 locks in %s repositories", over),
			one("memory-B/lock", "Held", ours, "repositories="+over, "callers=16"))
	}
	add(0, 1_000, "bytes of this process a lock", one("client-B/lock", "Held", ours, "repositories=50", "callers=16"))
	for _, side := range []string{"client", "server"} {
		add(0, 1, "% of a core of the "+side+" per 1,000 held locks at rest", times(0.01, difference(
			one(side+"-cpu-%", "Rest", "held=100000"), one(side+"-cpu-%", "Rest", "held=0"))))
		add(0, 1, "% of a core of the "+side+" per 1,000 leases being renewed", difference(
			one(side+"-cpu-%", "Renew", "store=manager", "leases=1000"), one(side+"-cpu-%", "Renew", "store=manager", "leases=0")))
	}
	add(0, 10_000, "bytes/s a lease being renewed", times(1e-3, one("net-B/s", "Renew", "store=manager", "leases=1000")))
	add(150_000, 0, "operations/s of 6 primaries on machines of their own", times(2, func(r *results) (float64, bool) {
		busiest, measured := one("busiest-cpu-ns/op", "Cluster", "primaries=6")(r)
		return 1e9 / busiest, measured
	}))
	return all
}

func one(unit, what string, labels ...string) func(r *results) (float64, bool) {
	return func(r *results) (float64, bool) {
		found := r.where(what, labels...)
		if len(found) != 1 {
			return 0, false
		}
		return found[0].median(unit)
	}
}

func times(factor float64, of func(r *results) (float64, bool)) func(r *results) (float64, bool) {
	return func(r *results) (float64, bool) {
		value, measured := of(r)
		return factor * value, measured
	}
}

func difference(of, from func(r *results) (float64, bool)) func(r *results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, first := of(r)
		b, second := from(r)
		return a - b, first && second
	}
}

func ratio(of, to func(r *results) (float64, bool)) func(r *results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, first := of(r)
		b, second := to(r)
		return a / b, first && second && b > 0
	}
}

// reached is the table of the figures that were measured.
func reached(r *results) (string, error) {
	var rows [][]string
	for _, f := range figures() {
		value, measured := f.value(r)
		if !measured {
			continue
		}
		bound, verdict := "at least "+digits(f.least), "yes"
		if f.least == 0 {
			bound = "at most " + digits(f.most)
		}
		if f.least > 0 && value < f.least || f.least == 0 && value > f.most {
			verdict = "**no**"
		}
		rows = append(rows, []string{f.what, bound, digits(value), verdict})
	}
	return markdown([]string{"figure", "wanted", "measured", "reached"}, rows, 2)
}

package enhanced

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// Mode says which of two databases decides about locks: Atlantis' own, which is
// called the legacy database, or the enhanced store. It is one for all adapters
// of a store, see [Fleet].
type Mode string

const (
	// ModeOff uses the legacy database only.
	ModeOff Mode = "off"
	// ModeShadow has the legacy database decide, and does the same in the store.
	// What differs there is counted and logged.
	ModeShadow Mode = "shadow"
	// ModeRead has the legacy database decide about changes. What is read comes
	// from the store, and is compared.
	ModeRead Mode = "read"
	// ModeFull has the store decide.
	ModeFull Mode = "full"
)

// Modes returns all modes, from the one that trusts the store least.
func Modes() []Mode { return []Mode{ModeOff, ModeShadow, ModeRead, ModeFull} }

// ParseMode reads a mode; it answers INVALID_REQUEST for anything else.
func ParseMode(text string) (Mode, error) {
	if mode := Mode(text); slices.Contains(Modes(), mode) {
		return mode, nil
	}
	return "", NewInvalidError("mode %q: want off, shadow, read or full", text)
}

// Deciders are the databases whose grant a lock needs.
type Deciders struct{ Legacy, Store bool }

// Deciders returns the one database that decides in a mode. Where no mode was set,
// there are only adapters that take part in no fleet, and the store decides.
func (m Mode) Deciders() Deciders {
	store := m == ModeFull || m == ""
	return Deciders{Legacy: !store, Store: store}
}

// Fleet is the mode of all adapters of a store. It is one small record there, with
// an epoch that each switch makes larger, and the adapters that take part.
//
// A switch needs no moment at which all adapters do the same: each says in the
// record which epoch it is in, and while one of them may still decide by the other
// database, all that know of the switch need the grants of both. An adapter that is
// gone without a word counts as one that may still decide, until somebody who
// knows better removes it with [Fleet.Forget].
//
// The zero Fleet is that of a store for which no mode was set. No adapter joins it.
type Fleet struct {
	Mode  Mode  `json:"mode"`
	Epoch int64 `json:"epoch"`
	// From is the mode before the switch, until all adapters have followed it: an
	// adapter that joins meanwhile follows it, too.
	From Mode `json:"from,omitempty"`
	// Since, Actor and Reason are of the last switch. Since is by the clock of
	// who switched.
	Since  time.Time `json:"since,omitzero"`
	Actor  string    `json:"actor,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Adapters are ordered by name.
	Adapters []FleetAdapter `json:"adapters,omitempty"`
}

// FleetAdapter is one adapter of a [Fleet].
type FleetAdapter struct {
	// Name tells adapters apart, Instance the lives of one.
	Name     string `json:"name"`
	Instance string `json:"instance"`
	// Mode and Epoch are what the adapter works by.
	Mode  Mode  `json:"mode"`
	Epoch int64 `json:"epoch"`
	// From is the mode before the switch, until all adapters have followed it: an
	// adapter that joins meanwhile follows it, too.
	From Mode `json:"from,omitempty"`
	// Legacy says that the adapter has a legacy database.
	Legacy bool `json:"legacy"`
	// Seen is when it last wrote this, by its own clock. It writes once a minute.
	Seen time.Time `json:"seen"`
	// Problem is why it can't follow a switch, empty if it can.
	Problem string `json:"problem,omitempty"`
	// Differences is how many it has met between the two databases since it started,
	// Recent the last ones, for people.
	Differences int64    `json:"differences,omitempty"`
	Recent      []string `json:"recent,omitempty"`
}

// FleetStore is a backend that keeps the record of a [Fleet]. Both methods are safe
// for concurrent use.
type FleetStore interface {
	// ReadFleet returns the record, without one the zero Fleet.
	ReadFleet(ctx context.Context) (Fleet, error)
	// ChangeFleet replaces the record in one step by what change makes of it, and
	// returns that. Change can run more than once; its error ends the call and
	// nothing changes.
	ChangeFleet(ctx context.Context, change func(*Fleet) error) (Fleet, error)
}

// Deciders returns the databases whose grants an adapter that knows this record
// needs: those that some adapter may decide by.
func (f *Fleet) Deciders() Deciders {
	d := f.Mode.Deciders()
	for _, a := range f.Adapters {
		its := a.Mode.Deciders()
		d.Legacy = d.Legacy || its.Legacy
		d.Store = d.Store || its.Store
	}
	return d
}

// Behind returns the adapters that have not followed the last switch.
func (f *Fleet) Behind() []FleetAdapter {
	var behind []FleetAdapter
	for _, a := range f.Adapters {
		if a.Epoch != f.Epoch {
			behind = append(behind, a)
		}
	}
	return behind
}

// Adapter returns the adapter with a name, nil if there is none.
func (f *Fleet) Adapter(name string) *FleetAdapter {
	i, found := f.find(name)
	if !found {
		return nil
	}
	return &f.Adapters[i]
}

func (f *Fleet) find(name string) (int, bool) {
	return slices.BinarySearchFunc(f.Adapters, name, func(a FleetAdapter, name string) int { return cmp.Compare(a.Name, name) })
}

// Join adds an adapter, or replaces an earlier life of it. While a switch is under
// way it has to follow that: nobody knows what its earlier life has done.
func (f *Fleet) Join(a FleetAdapter) {
	a.Mode, a.Epoch = f.Mode, f.Epoch
	if f.From != "" {
		a.Mode, a.Epoch = f.From, f.Epoch-1
	}
	f.put(a)
}

// Put replaces the adapter with its name. A switch that the last one has followed is
// over.
func (f *Fleet) Put(a FleetAdapter) {
	f.put(a)
	if len(f.Behind()) == 0 {
		f.From = ""
	}
}

func (f *Fleet) put(a FleetAdapter) {
	i, found := f.find(a.Name)
	if found {
		f.Adapters[i] = a
		return
	}
	f.Adapters = slices.Insert(f.Adapters, i, a)
}

// Forget removes an adapter. Do that only when it is certain that it does not run:
// one that does may go on to decide by a database that nobody else asks, until it
// reads the record again. While a switch is under way the others follow it once more,
// for what this one has done. It answers INVALID_REQUEST when there is none.
func (f *Fleet) Forget(name string) error {
	i, found := f.find(name)
	if !found {
		return NewInvalidError("adapter %q: there is none with this name; there are %s", name, f.names())
	}
	f.Adapters = slices.Delete(f.Adapters, i, i+1)
	if f.From != "" {
		f.Epoch++
		for i := range f.Adapters {
			f.Adapters[i].Mode = f.From
		}
	}
	return nil
}

func (f *Fleet) names() string {
	if len(f.Adapters) == 0 {
		return "none"
	}
	names := make([]string, len(f.Adapters))
	for i, a := range f.Adapters {
		names[i] = a.Name
	}
	return strings.Join(names, ", ")
}

// First reports whether the mode is the first that was set: nothing is known of what
// the two databases held before.
func (f *Fleet) First() bool { return f.Epoch == 1 }

// Switch sets the mode. A switch to the mode that is set changes nothing. It
// answers INVALID_REQUEST for a mode in which the legacy database decides while an
// adapter has none.
func (f *Fleet) Switch(to Mode, at time.Time, actor, reason string) error {
	if _, err := ParseMode(string(to)); err != nil {
		return err
	}
	if to == f.Mode {
		return nil
	}
	if to != ModeFull {
		for _, a := range f.Adapters {
			if !a.Legacy {
				return NewInvalidError("mode %q: adapter %q has no legacy database to decide by", to, a.Name)
			}
		}
	}
	switch {
	case f.From != "":
	case f.Mode != "":
		f.From = f.Mode
	case to == ModeFull:
		f.From = ModeOff // either database may have decided
	default:
		f.From = ModeFull
	}
	f.Mode, f.Since, f.Actor, f.Reason = to, at.UTC(), actor, reason
	f.Epoch++
	return nil
}

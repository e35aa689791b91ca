package api

import "time"

// Paths of the mode.
const (
	ModePath   = Base + "/mode"
	ForgetPath = Base + "/mode/forget"
)

// Fleet is the mode of all adapters of the store.
type Fleet struct {
	Mode   string     `json:"mode,omitempty" enum:"off,shadow,read,full" doc:"Which database decides; absent if none was set."`
	Epoch  int64      `json:"epoch" doc:"It grows with each switch."`
	From   string     `json:"from,omitempty" enum:"off,shadow,read,full" doc:"The mode before, until all adapters have followed the switch."`
	Since  *time.Time `json:"since,omitempty" doc:"When the mode was set; absent if it never was."`
	Actor  string     `json:"actor,omitempty" doc:"Who set it." example:"user:alice"`
	Reason string     `json:"reason,omitempty" doc:"Why."`
	// NeedsLegacy and NeedsStore are both true while a switch is under way.
	NeedsLegacy bool      `json:"needs_legacy" doc:"A lock needs the grant of Atlantis' own database."`
	NeedsStore  bool      `json:"needs_store" doc:"A lock needs the grant of the enhanced store."`
	Adapters    []Adapter `json:"adapters" nullable:"false"`
}

// Adapter is one adapter of the fleet.
type Adapter struct {
	Name        string    `json:"name" example:"atlantis-0"`
	Mode        string    `json:"mode" enum:"off,shadow,read,full" doc:"The mode that it works by."`
	Epoch       int64     `json:"epoch" doc:"It has followed the last switch if this is the fleet's epoch."`
	Legacy      bool      `json:"legacy" doc:"It has a legacy database."`
	Seen        time.Time `json:"seen" doc:"When it was last heard of, by its own clock."`
	Problem     string    `json:"problem,omitempty" doc:"Why it can't follow."`
	Differences int64     `json:"differences" doc:"Differences that it has met between the two databases since it started."`
	Recent      []string  `json:"recent" nullable:"false" doc:"The last of these, for people."`
}

// ModeRequest sets the mode.
type ModeRequest struct {
	Mode   string `json:"mode" enum:"off,shadow,read,full"`
	Actor  string `json:"actor" minLength:"1" doc:"The user who sets it." example:"alice"`
	Reason string `json:"reason" minLength:"1" doc:"Why." example:"phase 2"`
}

// ForgetRequest removes an adapter that does not run any longer.
type ForgetRequest struct {
	Name   string `json:"name" minLength:"1" example:"atlantis-0"`
	Actor  string `json:"actor" minLength:"1" doc:"The user who removes it." example:"alice"`
	Reason string `json:"reason" minLength:"1" doc:"Why." example:"its machine is gone"`
}

package api

// ReloadPath has the server read its configuration again.
const ReloadPath = Base + "/config/reload"

// Reload is what reading the configuration again did.
type Reload struct {
	Changed      []OptionChange `json:"changed" nullable:"false" doc:"Options that have another value now."`
	NeedsRestart []OptionChange `json:"needs_restart" nullable:"false" doc:"Options whose new value counts only after a restart."`
}

// OptionChange is an option with its value before and after. Secrets are not shown.
type OptionChange struct {
	Key  string `json:"key" example:"priority-queue.max-queue-size"`
	From string `json:"from" example:"1000"`
	To   string `json:"to" example:"50"`
}

package api

// Stats are the figures of the store and of the server's work on it.
type Stats struct {
	ActiveLocks       int      `json:"active_locks" doc:"Locks held in the store."`
	QueueDepth        int      `json:"queue_depth" doc:"Requests that wait in the store."`
	UnreadableRecords []string `json:"unreadable_records" nullable:"false" doc:"Records of the store that can't be read. Each counts as held."`

	TotalRequests      int64   `json:"total_requests" doc:"Decided requests for a lock since the server started; each was granted, refused or failed in the store."`
	SuccessfulAcquires int64   `json:"successful_acquires"`
	Refused            int64   `json:"refused"`
	StoreFailures      int64   `json:"store_failures"`
	Retries            int64   `json:"retries" doc:"Attempts after a first one that failed in the store. Each attempt is a request."`
	OpenCircuits       int     `json:"open_circuits" doc:"Servers of the store that are not asked now, because they keep failing."`
	Releases           int64   `json:"releases"`
	Expirations        int64   `json:"expirations"`
	UncheckedWaits     int64   `json:"unchecked_waits" doc:"Requests in a queue that were not looked at to the end for deadlocks."`
	AverageWaitSeconds float64 `json:"average_wait_seconds" doc:"Mean time from request to grant."`
	AverageHoldSeconds float64 `json:"average_hold_seconds" doc:"Mean time from grant to end of the locks that ended."`
	RecentFailureRate  float64 `json:"recent_failure_rate" doc:"Share, 0 to 1, of store failures among the last 100 requests."`
	DroppedEvents      int64   `json:"dropped_events"`
	EventDropRate      float64 `json:"event_drop_rate"`
	HealthScore        int     `json:"health_score" minimum:"0" maximum:"100" doc:"0 (down) to 100 (nothing to report)."`
}

// Health is the answer to a health check that passed.
type Health struct {
	Status string `json:"status" example:"ok"`
}

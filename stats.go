package enhanced

import "math"

// HealthScore condenses statistics and the outcome of a health check into one
// figure from 0 (down) to 100 (nothing to report):
//
//	100
//	 - 90      when the store does not answer
//	 - 40 x f  where f is the share of store failures among the last 100 requests
//	 - 10      when a stored record cannot be read
//	 - 10 x d  where d is the share of events that callbacks were too slow for
//
// and never below 0. With the store down it is at most 10.
func HealthScore(stats *BackendStats, storeErr error) int {
	score := 100.0
	if storeErr != nil {
		score -= 90
	}
	score -= 40 * stats.RecentFailureRate
	if len(stats.UnreadableRecords) > 0 {
		score -= 10
	}
	score -= 10 * stats.EventDropRate
	return int(math.Round(max(score, 0)))
}

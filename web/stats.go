package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerStats() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "get-stats",
		Summary:     "Get the statistics",
		Method:      http.MethodGet,
		Path:        api.StatsPath,
		Errors:      []int{http.StatusServiceUnavailable},
	}, s.stats)
}

func (s *server) stats(ctx context.Context, _ *struct{}) (*body[api.Stats], error) {
	stats, err := s.manager.GetStats(ctx)
	if err != nil {
		return nil, err
	}
	view := api.Stats{
		ActiveLocks:        stats.ActiveLocks,
		QueueDepth:         stats.QueueDepth,
		UnreadableRecords:  stats.UnreadableRecords,
		TotalRequests:      stats.TotalRequests,
		SuccessfulAcquires: stats.SuccessfulAcquires,
		Refused:            stats.Refused,
		StoreFailures:      stats.StoreFailures,
		Retries:            stats.Retries,
		OpenCircuits:       stats.OpenCircuits,
		Releases:           stats.Releases,
		Expirations:        stats.Expirations,
		UncheckedWaits:     stats.UncheckedWaits,
		AverageWaitSeconds: stats.AverageWaitTime.Seconds(),
		AverageHoldSeconds: stats.AverageHoldTime.Seconds(),
		RecentFailureRate:  stats.RecentFailureRate,
		DroppedEvents:      stats.DroppedEvents,
		EventDropRate:      stats.EventDropRate,
		HealthScore:        stats.HealthScore,
	}
	if view.UnreadableRecords == nil {
		view.UnreadableRecords = []string{}
	}
	return &body[api.Stats]{view}, nil
}

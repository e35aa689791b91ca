package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// stockLock is a lock as stock Atlantis records it, with its credential.
func stockLock(repository, path string, pull int) models.ProjectLock {
	return models.ProjectLock{
		Project:   models.Project{RepoFullName: repository, Path: path},
		Workspace: "default",
		User:      models.User{Username: "carol"},
		Time:      time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC),
		Pull: models.PullRequest{
			Num: pull, URL: fmt.Sprintf("https://github.com/%s/pull/%d", repository, pull), Author: "carol", State: models.OpenPullState,
			BaseRepo: models.Repo{
				FullName: repository, Owner: "acme", Name: "infra",
				CloneURL:          "https://bot:hunter2@github.com/" + repository + ".git",
				SanitizedCloneURL: "https://bot:<redacted>@github.com/" + repository + ".git",
				VCSHost:           models.VCSHost{Hostname: "github.com", Type: models.Github},
			},
		},
	}
}

func importBody(t *testing.T, dryRun bool, locks ...models.ProjectLock) string {
	t.Helper()
	request := api.ImportRequest{DryRun: dryRun}
	for _, lock := range locks {
		request.Records = append(request.Records, api.ImportRecord{Key: models.GenerateLockKey(lock.Project, lock.Workspace), Lock: lock})
	}
	encoded, err := json.Marshal(request)
	require.NoError(t, err)
	return string(encoded)
}

func TestImport(t *testing.T) {
	s := startServer(t, nil)
	decode[api.Lock](t, s.post(t, api.LocksPath, freezeProd), http.StatusCreated)
	noHost := stockLock("acme/old", ".", 3)
	noHost.Pull.BaseRepo.VCSHost = models.VCSHost{}
	odd := stockLock("acme/infra", "a\x1b[2J", 1)
	unnamed := stockLock("", ".", 1)
	body := importBody(t, false,
		stockLock("acme/infra", "envs/dev", 5),
		stockLock("acme/infra", "envs/prod", 5), // alice has it
		stockLock("acme/infra", "envs/dev", 5),  // twice in one batch
		stockLock("acme/infra", "envs/dev", 6),  // of another pull request
		noHost, odd, unnamed,
		stockLock("acme/infra", "pull-zero", 0),
	)
	r := s.post(t, api.ImportPath, body)
	report := decode[api.ImportReport](t, r, http.StatusOK)
	require.False(t, report.DryRun)
	require.NotContains(t, string(r.body), "hunter2")
	require.Equal(t, []string{
		"acme/infra/envs/dev/default/ taken ",
		"acme/infra/envs/prod/default/ skipped LOCK_EXISTS",
		"acme/infra/envs/dev/default/ already ",
		"acme/infra/envs/dev/default/ skipped LOCK_EXISTS",
		"acme/old/./default/ taken ",
		"acme/infra/a\x1b[2J/default/ skipped INVALID_REQUEST",
		"/./default/ skipped INVALID_REQUEST",
		"acme/infra/pull-zero/default/ taken ",
	}, outcomes(report))
	require.Contains(t, report.Results[1].Why, "user alice (note: database maintenance)")
	require.Contains(t, report.Results[5].Why, "control character")
	require.Equal(t, report.Results[0].LockID, report.Results[2].LockID)

	lock := decode[api.Lock](t, s.get(t, api.LocksPath+"/"+report.Results[0].LockID), http.StatusOK)
	require.Equal(t, api.Owner{Pull: 5, Host: "github.com"}, lock.Owner)
	require.Equal(t, "carol", lock.RequestedBy)
	require.Equal(t, "https://github.com/acme/infra/pull/5", lock.PullURL)
	require.Equal(t, "normal", lock.Priority)
	require.Nil(t, lock.ExpiresAt)
	stored, err := s.backend.GetLock(t.Context(), report.Results[0].LockID)
	require.NoError(t, err)
	want := enhanced.SanitizeProjectLock(stockLock("acme/infra", "envs/dev", 5))
	require.True(t, want.Time.Equal(stored.OriginalLock.Time), "the original time is kept")
	want.Time = stored.OriginalLock.Time
	require.Equal(t, &want, stored.OriginalLock, "what stock has recorded is kept")

	// It can be repeated: what was taken is there already.
	again := decode[api.ImportReport](t, s.post(t, api.ImportPath, body), http.StatusOK)
	require.Equal(t, strings.ReplaceAll(strings.Join(outcomes(report), "\n"), "taken", "already"), strings.Join(outcomes(again), "\n"))
}

func TestImportDryRun(t *testing.T) {
	s := startServer(t, nil)
	decode[api.Lock](t, s.post(t, api.LocksPath, freezeProd), http.StatusCreated)
	decode[api.ImportReport](t, s.post(t, api.ImportPath, importBody(t, false, stockLock("acme/infra", "envs/dev", 5))), http.StatusOK)
	before := s.lockCount(t)

	// One key in stock's store, another project.
	twin := stockLock("acme", "infra/envs/prod", 5)
	// The same within a repository and a pull request: still another project.
	near := stockLock("acme/infra", "envs", 5)
	near.Workspace = "dev/default"
	noHost := stockLock("acme/infra", "envs/newer", 6)
	noHost.Pull.BaseRepo.VCSHost = models.VCSHost{}
	locks := []models.ProjectLock{
		stockLock("acme/infra", "envs/new", 5),
		stockLock("acme/infra", "envs/new", 6),    // another pull request, in the same file
		stockLock("acme/infra", "envs/new", 5),    // the same one again
		stockLock("acme/infra", "./envs/new/", 5), // and in other words
		stockLock("acme", "infra/envs/new", 5),    // another project with the key
		stockLock("acme/infra", "envs/newer", 6), noHost,
		stockLock("acme/infra", "envs/dev", 5),
		stockLock("acme/infra", "envs/prod", 5),
		stockLock("acme/infra", "a\x1b[2J", 1),
		stockLock("", ".", 1),
		twin,
		near,
	}
	report := decode[api.ImportReport](t, s.post(t, api.ImportPath, importBody(t, true, locks...)), http.StatusOK)
	require.True(t, report.DryRun)
	require.Equal(t, []string{
		"acme/infra/envs/new/default/ taken ",
		"acme/infra/envs/new/default/ skipped LOCK_EXISTS",
		"acme/infra/envs/new/default/ already ",
		"acme/infra/./envs/new//default/ already ",
		"acme/infra/envs/new/default/ skipped LOCK_EXISTS",
		"acme/infra/envs/newer/default/ taken ",
		"acme/infra/envs/newer/default/ already ",
		"acme/infra/envs/dev/default/ already ",
		"acme/infra/envs/prod/default/ skipped LOCK_EXISTS",
		"acme/infra/a\x1b[2J/default/ skipped INVALID_REQUEST",
		"/./default/ skipped INVALID_REQUEST",
		"acme/infra/envs/prod/default/ skipped LOCK_EXISTS",
		"acme/infra/envs/dev/default/ skipped LOCK_EXISTS",
	}, outcomes(report))
	require.Equal(t, before, s.lockCount(t), "a dry run takes nothing")

	// The real run does what the dry run said.
	real := decode[api.ImportReport](t, s.post(t, api.ImportPath, importBody(t, false, locks...)), http.StatusOK)
	require.Equal(t, outcomes(report), outcomes(real))
	for i := range real.Results {
		require.Equal(t, real.Results[i].Why, report.Results[i].Why)
	}
}

// A record from before Atlantis stored hosts is the same pull request's lock
// on any host, whichever of the two records came first.
func TestImportHostIsOptional(t *testing.T) {
	noHost := stockLock("acme/infra", ".", 5)
	noHost.Pull.BaseRepo.VCSHost = models.VCSHost{}
	withHost := stockLock("acme/infra", ".", 5)
	for name, locks := range map[string][]models.ProjectLock{"old first": {noHost, withHost}, "new first": {withHost, noHost}} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, nil)
			report := decode[api.ImportReport](t, s.post(t, api.ImportPath, importBody(t, false, locks...)), http.StatusOK)
			require.Equal(t, []string{"acme/infra/./default/ taken ", "acme/infra/./default/ already "}, outcomes(report))
		})
	}
}

func TestImportLimits(t *testing.T) {
	s := startServer(t, nil)
	problem(t, s.post(t, api.ImportPath, `{"records":[]}`), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	locks := make([]models.ProjectLock, api.MaxImportRecords+1)
	for i := range locks {
		locks[i] = stockLock("acme/infra", fmt.Sprintf("p%d", i), 1)
	}
	problem(t, s.post(t, api.ImportPath, importBody(t, true, locks...)), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	report := decode[api.ImportReport](t, s.post(t, api.ImportPath, importBody(t, true, locks[1:]...)), http.StatusOK)
	require.Len(t, report.Results, api.MaxImportRecords)
}

// When the store fails, the import ends: the rest would fail in the same way.
func TestImportStoreFails(t *testing.T) {
	s := startServer(t, failWith(enhanced.NewBackendError("acquire", fmt.Errorf("disk full"))))
	r := s.post(t, api.ImportPath, importBody(t, false, stockLock("acme/infra", ".", 1)))
	told := problem(t, r, http.StatusServiceUnavailable, "BACKEND_ERROR")
	require.Contains(t, told.Detail, "acquire: the store failed; the server's log says more")
}

func TestUnknownOutcomeIsTold(t *testing.T) {
	s := startServer(t, failWith(enhanced.NewBackendError("acquire", enhanced.ErrOutcomeUnknown)))
	told := problem(t, s.post(t, api.LocksPath, freezeProd), http.StatusServiceUnavailable, "BACKEND_ERROR")
	require.True(t, told.OutcomeUnknown)
	require.Contains(t, told.Detail, "acquire: the store has not answered, outcome unknown")
}

func outcomes(report api.ImportReport) []string {
	lines := make([]string, 0, len(report.Results))
	for _, r := range report.Results {
		lines = append(lines, r.Key+" "+r.Outcome+" "+r.Code)
	}
	return lines
}

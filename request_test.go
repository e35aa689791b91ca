package enhanced_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

const (
	defaultLease = 30 * time.Minute
	maxLease     = 2 * time.Hour
)

func normalize(r enhanced.EnhancedLockRequest) (*enhanced.EnhancedLockRequest, error) {
	return enhanced.NormalizeRequest(&r, defaultLease, maxLease)
}

func TestNormalizeRequestLeases(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		asked, want time.Duration // want 0 is a refusal
	}{
		"default":           {0, defaultLease},
		"until released":    {enhanced.NoTimeout, enhanced.NoTimeout},
		"the shortest":      {time.Millisecond, time.Millisecond},
		"the longest":       {maxLease, maxLease},
		"below the default": {time.Minute, time.Minute},
		"above the longest": {maxLease + 1, 0},
		"a nanosecond":      {1, 0},
		"below a milli":     {time.Millisecond - 1, 0},
		"negative":          {-2, 0},
		"negative minute":   {-time.Minute, 0},
		"smallest":          {math.MinInt64, 0},
		"largest":           {math.MaxInt64, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Timeout: test.asked})
			if test.want == 0 {
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				require.ErrorContains(t, err, "timeout "+test.asked.String())
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, r.Timeout)
		})
	}
}

func TestNormalizeRequestPriorities(t *testing.T) {
	t.Parallel()
	for _, priority := range []enhanced.Priority{0, 1, 2, 3} {
		r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Priority: priority})
		require.NoError(t, err)
		require.Equal(t, priority, r.Priority)
	}
	for _, priority := range []enhanced.Priority{-1, 4, 1000, math.MaxInt64, math.MinInt64, 1<<53 + 1} {
		_, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Priority: priority})
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		require.ErrorContains(t, err, itoa(int(priority)))
		require.ErrorContains(t, err, "critical", "the message says what would be right")
	}
}

func TestNormalizeRequestResources(t *testing.T) {
	t.Parallel()
	custom := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: repo, Path: "./x"}
	tests := map[string]struct {
		request enhanced.EnhancedLockRequest
		want    enhanced.ResourceIdentifier // zero is a refusal
	}{
		"from the project":      {enhanced.EnhancedLockRequest{Project: models.Project{RepoFullName: repo, Path: "./a/"}, Workspace: workspace}, resource("a")},
		"from the resource":     {enhanced.EnhancedLockRequest{Resource: resource("a")}, resource("a")},
		"unclean resource":      {enhanced.EnhancedLockRequest{Resource: enhanced.ResourceIdentifier{Namespace: repo, Path: "./a/", Workspace: workspace}}, resource("a")},
		"both say the same":     {enhanced.EnhancedLockRequest{Resource: resource("a"), Project: project("a"), Workspace: workspace}, resource("a")},
		"both, one unclean":     {enhanced.EnhancedLockRequest{Resource: resource("a"), Project: models.Project{RepoFullName: repo, Path: "a/."}, Workspace: workspace}, resource("a")},
		"another path":          {enhanced.EnhancedLockRequest{Resource: resource("a"), Project: project("b"), Workspace: workspace}, enhanced.ResourceIdentifier{}},
		"another workspace":     {enhanced.EnhancedLockRequest{Resource: resource("a"), Project: project("a"), Workspace: "staging"}, enhanced.ResourceIdentifier{}},
		"only the workspace":    {enhanced.EnhancedLockRequest{Resource: resource("a"), Workspace: workspace}, enhanced.ResourceIdentifier{}},
		"custom":                {enhanced.EnhancedLockRequest{Resource: custom}, custom},
		"custom with a project": {enhanced.EnhancedLockRequest{Resource: custom, Project: project("a"), Workspace: workspace}, custom},
		"unknown type":          {enhanced.EnhancedLockRequest{Resource: enhanced.ResourceIdentifier{Type: "row", Namespace: repo}}, enhanced.ResourceIdentifier{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.request.User = alice()
			r, err := normalize(test.request)
			if test.want == (enhanced.ResourceIdentifier{}) {
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, r.Resource)
			require.Equal(t, test.want.Project(), r.Project)
			require.Equal(t, test.want.Workspace, r.Workspace)
		})
	}
	_, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), Project: project("b"), Workspace: workspace, User: alice()})
	require.ErrorContains(t, err, resource("a").String())
	require.ErrorContains(t, err, resource("b").String(), "a contradiction names both")
}

func TestNormalizeRequestBoundsWhatIsStored(t *testing.T) {
	t.Parallel()
	r := resource("a")
	r.Path = strings.Repeat("é", 3000) // 18,000 bytes when escaped
	_, err := normalize(enhanced.EnhancedLockRequest{Resource: r, User: alice()})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "16000")
	r.Path = strings.Repeat("x", 15_000)
	_, err = normalize(enhanced.EnhancedLockRequest{Resource: r, User: alice()})
	require.NoError(t, err)
	_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: models.User{Username: strings.Repeat("x", 4001)}})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "4001")
}

func TestNormalizeRequestOwners(t *testing.T) {
	t.Parallel()
	r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice()})
	require.NoError(t, err)
	require.Equal(t, enhanced.UserOwner("alice"), r.Owner())

	p := pull(5)
	r, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Pull: &p})
	require.NoError(t, err)
	require.Equal(t, enhanced.PullOwner(host, repo, 5), r.Owner(), "the pull request, not its author")

	_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a")})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), Pull: &models.PullRequest{}})
	require.NoError(t, err, "Atlantis' API calls have number 0")
	_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: models.User{Username: "a\x00b"}})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	p.BaseRepo.VCSHost.Hostname = "a\nb"
	_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), Pull: &p})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
}

func TestNormalizeRequestMetadata(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		metadata map[string]string
		accepted bool
	}{
		"none":                 {nil, true},
		"a note":               {map[string]string{"note": "incident 42, ask 🔒"}, true},
		"an empty value":       {map[string]string{"note": ""}, true},
		"4,096 bytes":          {map[string]string{"note": strings.Repeat("x", 4092)}, true},
		"4,097 bytes":          {map[string]string{"note": strings.Repeat("x", 4093)}, false},
		"4,097 bytes in keys":  {map[string]string{strings.Repeat("k", 4097): ""}, false},
		"4,097 bytes together": {map[string]string{"a": strings.Repeat("x", 2047), "b": strings.Repeat("x", 2048)}, false},
		"an empty key":         {map[string]string{"": "x"}, false},
		"control in a value":   {map[string]string{"note": "a\x1b[2J"}, false},
		"newline in a value":   {map[string]string{"note": "a\nb"}, false},
		"control in a key":     {map[string]string{"a\x00": "x"}, false},
		"invalid UTF-8":        {map[string]string{"note": "\xff"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), Metadata: test.metadata})
			if !test.accepted {
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.metadata, r.Metadata)
		})
	}
}

func TestNormalizeRequestIDs(t *testing.T) {
	t.Parallel()
	r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice()})
	require.NoError(t, err)
	require.NoError(t, uuid.Validate(r.ID))
	other, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice()})
	require.NoError(t, err)
	require.NotEqual(t, r.ID, other.ID)

	r, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), ID: "job/7"})
	require.NoError(t, err)
	require.Equal(t, "job/7", r.ID)
	for _, id := range []string{"a\x00", "a\nb", "\xff", "a\u200b", strings.Repeat("x", 1025)} {
		_, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), ID: id})
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "%q", id)
		require.ErrorContains(t, err, "request ID")
	}
}

func TestNormalizeRequestTimes(t *testing.T) {
	t.Parallel()
	before := time.Now()
	r, err := normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice()})
	require.NoError(t, err)
	require.False(t, r.RequestedAt.Before(before))

	asked := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	r, err = normalize(enhanced.EnhancedLockRequest{Resource: resource("a"), User: alice(), RequestedAt: asked})
	require.NoError(t, err)
	require.Equal(t, asked, r.RequestedAt)
}

func TestNormalizeRequestLeavesItsArgumentAlone(t *testing.T) {
	t.Parallel()
	request := enhanced.EnhancedLockRequest{
		Project: models.Project{RepoFullName: repo, Path: "./a/"}, Workspace: workspace, User: alice(),
		Metadata: map[string]string{"note": "x"},
	}
	before := request
	r, err := enhanced.NormalizeRequest(&request, defaultLease, maxLease)
	require.NoError(t, err)
	r.Metadata["note"] = "y"
	require.Equal(t, before, request)
	require.Equal(t, "x", request.Metadata["note"])

	_, err = enhanced.NormalizeRequest(nil, defaultLease, maxLease)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
}

func TestRequestProjectLock(t *testing.T) {
	t.Parallel()
	request := pullRequest(5, "a")
	request.RequestedAt = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	want := models.ProjectLock{Project: project("a"), Workspace: workspace, User: alice(), Pull: pull(5), Time: request.RequestedAt}
	want.Pull.BaseRepo.CloneURL = ""
	require.Equal(t, want, request.ProjectLock())
	require.Contains(t, request.Pull.BaseRepo.CloneURL, credential, "the caller's pull request stays as it is")

	request.Pull = nil
	require.Zero(t, request.ProjectLock().Pull)
}

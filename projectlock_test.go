package enhanced_test

import (
	"encoding/json"
	"os"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

func TestSanitizePull(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ url, want string }{
		"none":                    {"", ""},
		"no user":                 {"https://github.com/org/app/pull/5", "https://github.com/org/app/pull/5"},
		"sanitized by Atlantis":   {"https://bot:<redacted>@github.com/org/app.git", "https://bot:<redacted>@github.com/org/app.git"},
		"password":                {"https://bot:" + credential + "@github.com/org/app.git", "https://bot:<redacted>@github.com/org/app.git"},
		"password without user":   {"https://:" + credential + "@github.com/org/app.git", "https://:<redacted>@github.com/org/app.git"},
		"escaped password":        {"https://bot:a%40b%2F" + credential + "@h/r", "https://bot:<redacted>@h/r"},
		"password with colons":    {"https://bot:a:" + credential + "@h/r", "https://bot:<redacted>@h/r"},
		"port":                    {"https://bot:" + credential + "@h:8443/r", "https://bot:<redacted>@h:8443/r"},
		"port without a password": {"https://h:8443/r/@scope", "https://h:8443/r/@scope"},
		"at sign in the path":     {"https://github.com/org/app/@v1", "https://github.com/org/app/@v1"},
		"user without password":   {"ssh://git@github.com/org/app.git", "ssh://git@github.com/org/app.git"},
		"scp form":                {"git@github.com:org/app.git", "git@github.com:org/app.git"},
		"two in one text":         {"http://a:x@h http://b:y@h", "http://a:<redacted>@h http://b:<redacted>@h"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := pull(5)
			before.URL, before.BaseRepo.SanitizedCloneURL, before.BaseRepo.CloneURL = test.url, test.url, test.url
			want := pull(5)
			want.URL, want.BaseRepo.SanitizedCloneURL, want.BaseRepo.CloneURL = test.want, test.want, ""
			require.Equal(t, want, enhanced.SanitizePull(before))
			require.Equal(t, test.url, before.BaseRepo.CloneURL, "the argument stays as it is")
		})
	}
}

func TestSanitizeProjectLock(t *testing.T) {
	t.Parallel()
	lock := pullLock(5, "a")
	lock.Pull.URL = "https://bot:" + credential + "@github.com/org/app/pull/5"
	clean := enhanced.SanitizeProjectLock(lock)
	text, err := json.Marshal(clean)
	require.NoError(t, err)
	require.NotContains(t, string(text), credential)

	want := lock
	want.Pull.BaseRepo.CloneURL = ""
	want.Pull.URL = "https://bot:<redacted>@github.com/org/app/pull/5"
	require.Equal(t, want, clean, "everything else stays")
}

func TestTransferProjectLock(t *testing.T) {
	t.Parallel()
	lock := pullLock(5, "a")

	toUser, err := enhanced.TransferProjectLock(lock, enhanced.UserOwner("bob"))
	require.NoError(t, err)
	want := lock
	want.Pull, want.User = models.PullRequest{}, bob()
	require.Equal(t, want, toUser)

	toPull, err := enhanced.TransferProjectLock(toUser, enhanced.PullOwner("gitlab.com", repo, 7))
	require.NoError(t, err)
	require.Equal(t, models.PullRequest{Num: 7, BaseRepo: models.Repo{
		FullName: repo, Owner: "org", Name: "app", VCSHost: models.VCSHost{Hostname: "gitlab.com"},
	}}, toPull.Pull)
	require.Zero(t, toPull.User)
	require.Equal(t, lock.Project, toPull.Project)

	for name, owner := range map[string]enhanced.Owner{
		"another repository": enhanced.PullOwner(host, "org/app-prod", 5),
		"the system":         {Kind: enhanced.OwnerSystem, Name: "atlantis"},
		"no owner":           {},
	} {
		_, err := enhanced.TransferProjectLock(lock, owner)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
	}
}

// No way in lets a credential reach the file or an answer.
func TestCredentialsAreNeitherStoredNorReturned(t *testing.T) {
	t.Parallel()
	db := openFile(t)
	backend := newBackendOn(t, db, enabled())
	manager := newManagerOn(t, backend, enabled())
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)

	acquired, answer, err := adapter.TryLock(pullLock(5, "a"))
	require.NoError(t, err)
	require.True(t, acquired)
	lock, err := manager.Acquire(t.Context(), pullRequest(5, "b"))
	require.NoError(t, err)
	_, refused, err := adapter.TryLock(pullLock(6, "a"))
	require.NoError(t, err)
	released, err := adapter.UnlockByPull(repo, 5)
	require.NoError(t, err)
	require.Len(t, released, 2)

	for name, value := range map[string]any{"answer": answer, "lock": lock, "refusal": refused, "released": released} {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		require.NotContains(t, string(text), credential, name)
	}
	file, err := os.ReadFile(db.Path())
	require.NoError(t, err)
	require.Contains(t, string(file), "feature", "the pull request is in the file")
	require.NotContains(t, string(file), credential)
}

package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// hostileText draws text that breaks careless encodings: separators, escapes,
// look-alikes, control characters, any Unicode.
func hostileText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringOfN(rapid.RuneFrom([]rune("/:%.-{}*[]\\ @+~aA0é\u200b\x00\n🔒")), 0, 12, -1),
		rapid.SampledFrom([]string{"", ".", "..", "a/b", "a%2Fb", "%", "%2", "user:a", "pr:h/r/1", "system:atlantis"}),
	)
}

func TestOwnerText(t *testing.T) {
	t.Parallel()
	tests := map[string]enhanced.Owner{
		"pr:github.com/org%2Fapp/5":            enhanced.PullOwner("github.com", "org/app", 5),
		"pr:/org%2Fapp/5":                      enhanced.PullOwner("", "org/app", 5),
		"pr:gitlab.example.com/g%2Fsub%2Fr/0":  enhanced.PullOwner("gitlab.example.com", "g/sub/r", 0),
		"pr:h/r/-1":                            enhanced.PullOwner("h", "r", -1),
		"user:alice":                           enhanced.UserOwner("alice"),
		"user:pr:github.com%2Forg%252Fapp%2F5": enhanced.UserOwner("pr:github.com/org%2Fapp/5"),
		"user:%F0%9F%94%92":                    enhanced.UserOwner("🔒"),
		"system:atlantis":                      {Kind: enhanced.OwnerSystem, Name: "atlantis"},
	}
	for text, owner := range tests {
		require.Equal(t, text, owner.String())
		parsed, err := enhanced.ParseOwner(text)
		require.NoError(t, err, text)
		require.Equal(t, owner, parsed)
	}
	for _, actor := range []string{enhanced.SystemAtlantis, enhanced.SystemStore} {
		owner, err := enhanced.ParseOwner(actor)
		require.NoError(t, err)
		require.Equal(t, enhanced.OwnerSystem, owner.Kind)
	}
}

func TestOwnerInWords(t *testing.T) {
	t.Parallel()
	for text, words := range map[string]string{
		"pr:github.com/org%2Fapp/5": "pull request 5 on github.com",
		"pr:/org%2Fapp/5":           "pull request 5",
		"user:alice":                "user alice",
		"user:Al%20Ice%2C%20x":      `user "Al Ice, x"`,
		"user:%1B%5B2J":             `user "\x1b[2J"`,
		"system:atlantis":           "system atlantis",
		"no owner":                  "no owner",
	} {
		require.Equal(t, words, enhanced.DescribeOwner(text))
	}
}

func TestParseOwnerRefusesOtherForms(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", ":", "alice", "user", "user:", "User:alice", " user:alice", "user:alice ", "user:a b", "user:a/b",
		"user:%", "user:%2", "user:%61lice", "user:%2f", "system:", "team:x",
		"pr:", "pr:5", "pr:r/5", "pr:h/org/app/5", "pr:h/r/", "pr:h/r/x", "pr:h/r/+5", "pr:h/r/05", "pr:h/r/-0",
		"pr:h/r/ 5", "pr:h/r/5/", "pr:h/r/1e3", "pr:h/r/9223372036854775808", "pr:h/%72/5", "pr:h/r%/5", "PR:h/r/5",
	} {
		owner, err := enhanced.ParseOwner(text)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "%q", text)
		require.Zero(t, owner)
	}
	_, err := enhanced.ParseOwner("team:x")
	require.ErrorContains(t, err, `"team:x"`)
	require.ErrorContains(t, err, "user:NAME", "the message says what would be right")
}

func TestOwnerTextRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		owner := enhanced.UserOwner(hostileText().Filter(func(s string) bool { return s != "" }).Draw(t, "user"))
		if rapid.Bool().Draw(t, "pull request") {
			owner = enhanced.PullOwner(hostileText().Draw(t, "host"), hostileText().Draw(t, "repository"), rapid.Int().Draw(t, "number"))
		}
		parsed, err := enhanced.ParseOwner(owner.String())
		if err != nil || parsed != owner {
			t.Fatalf("%#v became %q became %#v, %v", owner, owner.String(), parsed, err)
		}
	})
}

func TestProjectLockOwner(t *testing.T) {
	t.Parallel()
	lock := pullLock(5, ".")
	require.Equal(t, enhanced.PullOwner(host, repo, 5), enhanced.ProjectLockOwner(lock))
	lock.Pull.BaseRepo = models.Repo{}
	require.Equal(t, enhanced.PullOwner("", repo, 5), enhanced.ProjectLockOwner(lock), "the repository is the project's")
}

func TestSamePull(t *testing.T) {
	t.Parallel()
	own := enhanced.PullOwner("github.com", "org/app", 5)
	tests := map[string]struct {
		owner, recorded enhanced.Owner
		same            bool
	}{
		"itself":                        {own, own, true},
		"recorded without host":         {own, enhanced.PullOwner("", "org/app", 5), true},
		"asked without host":            {enhanced.PullOwner("", "org/app", 5), own, false},
		"both without host":             {enhanced.PullOwner("", "org/app", 5), enhanced.PullOwner("", "org/app", 5), true},
		"another host":                  {own, enhanced.PullOwner("gitlab.com", "org/app", 5), false},
		"host in another case":          {own, enhanced.PullOwner("GitHub.com", "org/app", 5), false},
		"another number":                {own, enhanced.PullOwner("github.com", "org/app", 55), false},
		"number 0":                      {own, enhanced.PullOwner("github.com", "org/app", 0), false},
		"another number without host":   {own, enhanced.PullOwner("", "org/app", 6), false},
		"another repository":            {own, enhanced.PullOwner("github.com", "org/app-prod", 5), false},
		"repository without host":       {own, enhanced.PullOwner("", "org/app-prod", 5), false},
		"a user":                        {own, enhanced.UserOwner("alice"), false},
		"a user asks":                   {enhanced.UserOwner("alice"), own, false},
		"two users are no pull request": {enhanced.UserOwner("alice"), enhanced.UserOwner("alice"), false},
		"the system":                    {enhanced.Owner{Kind: enhanced.OwnerSystem, Name: "atlantis"}, own, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.same, test.owner.SamePull(test.recorded))
		})
	}
}

func FuzzParseOwner(f *testing.F) {
	for _, seed := range []string{
		"", "user:alice", "user:%2F", "user:%2f", "user:\xff", "user:a b", "pr:github.com/org%2Fapp/5", "pr://0", "pr:h/r/-1",
		"pr:h/r/+1", "pr:h/r/007", "pr:h/r/9223372036854775807", "pr:a:b/c/1", "system:atlantis", "system:", ":", "pr:///",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		owner, err := enhanced.ParseOwner(text)
		if err != nil {
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			require.Zero(t, owner)
			return
		}
		require.Equal(t, text, owner.String(), "one owner has one text")
	})
}

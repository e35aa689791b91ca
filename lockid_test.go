package enhanced_test

import (
	"math"
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRepositoryTag(t *testing.T) {
	t.Parallel()
	// The layout of stores depends on it: the first 128 bits of the SHA-256.
	require.Equal(t, "e3b0c44298fc1c149afbf4c8996fb924", enhanced.RepositoryTag(""))
	tags := make(map[string]string)
	for _, name := range []string{"", "org/app", "Org/app", "org/app ", "org/app-prod", "org", "a{b}", "\xff", strings.Repeat("x", 1<<20)} {
		tag := enhanced.RepositoryTag(name)
		require.Regexp(t, "^[0-9a-f]{32}$", tag)
		require.NotContains(t, tags, tag)
		tags[tag] = name
	}
}

func TestLockIDsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		repository := hostileText().Draw(t, "repository")
		token := rapid.Int64Min(1).Draw(t, "token")
		tag, parsed, ok := enhanced.ParseLockID(enhanced.FormatLockID(repository, token))
		if !ok || tag != enhanced.RepositoryTag(repository) || parsed != token {
			t.Fatalf("token %d of %q became %q, %d, %v", token, repository, tag, parsed, ok)
		}
	})
	// Beyond what a 64-bit float keeps.
	_, token, ok := enhanced.ParseLockID(enhanced.FormatLockID(repo, 1<<53+1))
	require.True(t, ok)
	require.EqualValues(t, 1<<53+1, token)
	_, token, ok = enhanced.ParseLockID(enhanced.FormatLockID(repo, math.MaxInt64))
	require.True(t, ok)
	require.EqualValues(t, math.MaxInt64, token)
}

func TestParseLockIDRefusesOtherForms(t *testing.T) {
	t.Parallel()
	tag := enhanced.RepositoryTag(repo)
	for _, id := range []string{
		"", "-", tag, tag + "-", "-7", tag[1:] + "-7", tag + "0-7", strings.ToUpper(tag) + "-7", strings.Replace(tag, tag[:1], "g", 1) + "-7",
		tag + "-0", tag + "--7", tag + "-+7", tag + "-007", tag + "-1e3", tag + "-7 ", " " + tag + "-7", tag + "-7-8", tag + "-0x7",
		tag + "-9223372036854775808", tag + "-18446744073709551616", tag + "-1.5", tag + "_7", tag + "-7\n",
	} {
		gotTag, token, ok := enhanced.ParseLockID(id)
		require.False(t, ok, "%q", id)
		require.Empty(t, gotTag)
		require.Zero(t, token)
	}
}

func FuzzParseLockID(f *testing.F) {
	tag := enhanced.RepositoryTag(repo)
	for _, seed := range []string{
		"", "-", tag, tag + "-1", tag + "-9223372036854775807", tag + "-9223372036854775808", tag + "-01", tag + "-+1",
		strings.ToUpper(tag) + "-1", strings.Repeat("0", 32) + "-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		tag, token, ok := enhanced.ParseLockID(id)
		if !ok {
			return
		}
		require.Positive(t, token)
		require.Equal(t, id, tag+"-"+itoa(int(token)), "one lock has one ID")
	})
}

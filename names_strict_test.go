package enhanced_test

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// Only spaces is refused on the strict way in.
func TestBlankNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"user", "project name"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			requireStrict(t, name{place, "   "}, false)
		})
	}
}

// A refusal repeats no more than the start of a huge name.
func TestRefusalOfMetadataIsShort(t *testing.T) {
	t.Parallel()
	_, err := normalize(enhanced.EnhancedLockRequest{
		Resource: resource("a"), User: alice(),
		Metadata: map[string]string{strings.Repeat("k", 1<<20): "\x00"},
	})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Less(t, len(err.Error()), 500)
}

// Many emoji contain a joiner, which is a format character.
func TestEmojiWithJoiner(t *testing.T) {
	t.Parallel()
	requireStrict(t, name{"path", "👩‍🚀"}, true)
}

func TestHugeTypeIsClipped(t *testing.T) {
	t.Parallel()
	_, err := normalize(enhanced.EnhancedLockRequest{
		Resource: enhanced.ResourceIdentifier{Type: enhanced.ResourceType(strings.Repeat("x", 1<<20)), Namespace: repo}, User: alice(),
	})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Less(t, len(err.Error()), 500)
	_, err = enhanced.ParseOwner(strings.Repeat("x", 1<<20))
	require.Less(t, len(err.Error()), 500)
	_, err = enhanced.ParsePriority(strings.Repeat("x", 1<<20))
	require.Less(t, len(err.Error()), 500)
}

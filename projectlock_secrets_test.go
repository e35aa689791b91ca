package enhanced_test

import (
	"net/url"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestPasswordWithAtSignIsReplaced(t *testing.T) {
	t.Parallel()
	const text = "https://bot:first@" + credential + "@github.com/org/app/pull/5"
	parsed, err := url.Parse(text)
	require.NoError(t, err, "Go, and with it Atlantis, accepts such a URL")
	password, _ := parsed.User.Password()
	require.Contains(t, password, credential)
	p := pull(5)
	p.URL = text
	require.NotContains(t, enhanced.SanitizePull(p).URL, credential)
}

func TestTokenAsUserIsReplaced(t *testing.T) {
	t.Parallel()
	p := pull(5)
	p.BaseRepo.SanitizedCloneURL = "https://" + credential + "@github.com/org/app.git"
	require.NotContains(t, enhanced.SanitizePull(p).BaseRepo.SanitizedCloneURL, credential)
}

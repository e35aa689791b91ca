package enhanced_test

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func TestReleaseRequestValidate(t *testing.T) {
	t.Parallel()
	number := 5
	id := enhanced.FormatLockID(repo, 7)
	tests := map[string]struct {
		request enhanced.ReleaseRequest
		refused string // part of the message, empty if accepted
	}{
		"by lock ID":                  {enhanced.ReleaseRequest{LockID: id}, ""},
		"by lock ID and owner":        {enhanced.ReleaseRequest{LockID: id, Owner: "user:alice"}, ""},
		"by owner":                    {enhanced.ReleaseRequest{Resource: resource("a"), Owner: "user:alice"}, ""},
		"by pull number":              {enhanced.ReleaseRequest{Resource: resource("a"), PullNumber: &number}, ""},
		"by force":                    {enhanced.ReleaseRequest{Resource: resource("a"), Force: true, Actor: "user:bob", Reason: "stuck"}, ""},
		"unclean resource":            {enhanced.ReleaseRequest{Resource: enhanced.ResourceIdentifier{Namespace: repo, Path: "./a/"}, Force: true}, ""},
		"nothing":                     {enhanced.ReleaseRequest{}, "lock ID or a resource"},
		"no lock":                     {enhanced.ReleaseRequest{Owner: "user:alice", Force: true}, "lock ID or a resource"},
		"no right":                    {enhanced.ReleaseRequest{Resource: resource("a")}, "owner, its pull number or force"},
		"an actor is no right":        {enhanced.ReleaseRequest{Resource: resource("a"), Actor: "user:alice"}, "owner, its pull number or force"},
		"unknown type":                {enhanced.ReleaseRequest{Resource: enhanced.ResourceIdentifier{Type: "row"}, Force: true}, `"row"`},
		"control in the resource":     {enhanced.ReleaseRequest{Resource: enhanced.ResourceIdentifier{Namespace: "a\x00"}, Force: true}, "repository"},
		"owner that is no text form":  {enhanced.ReleaseRequest{Resource: resource("a"), Owner: "alice"}, `"alice"`},
		"owner that is not canonical": {enhanced.ReleaseRequest{LockID: id, Owner: "user:%61lice"}, `"user:%61lice"`},
		"control in the actor":        {enhanced.ReleaseRequest{LockID: id, Actor: "a\x1b"}, "actor"},
		"newline in the reason":       {enhanced.ReleaseRequest{LockID: id, Reason: "a\nb"}, "reason"},
		"invalid UTF-8":               {enhanced.ReleaseRequest{LockID: id, Reason: "\xff"}, "reason"},
		"the longest reason":          {enhanced.ReleaseRequest{LockID: id, Reason: strings.Repeat("x", 4096)}, ""},
		"a longer reason":             {enhanced.ReleaseRequest{LockID: id, Reason: strings.Repeat("x", 4097)}, "4097"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.request.Validate()
			if test.refused == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			require.ErrorContains(t, err, test.refused)
		})
	}
}

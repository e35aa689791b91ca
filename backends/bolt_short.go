package backends

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/google/uuid"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Short forms of what records repeat. A field has its long form or its short one;
// where both are there, the long one counts. Files of the format before this one
// have long forms only.

// maxAfter bounds the differences between a token and a time that are stored: a
// larger one is no shorter than what it stands for.
const maxAfter = int64(1e12)

// shortOwner returns "HOST/NUMBER" for a pull request of a repository, "" for other
// owners.
func shortOwner(repository, text string) string {
	owner, err := enhanced.ParseOwner(text)
	if err != nil || owner.Kind != enhanced.OwnerPull || owner.Repository != repository {
		return ""
	}
	return owner.Host + "/" + strconv.Itoa(owner.Number)
}

// longOwner reverses shortOwner; it returns "" for what that never writes.
func longOwner(repository, short string) string {
	slash := strings.LastIndexByte(short, '/')
	if slash < 0 {
		return ""
	}
	number, err := strconv.Atoi(short[slash+1:])
	if err != nil {
		return ""
	}
	return enhanced.PullOwner(short[:slash], repository, number).String()
}

// shortRequest returns the 16 bytes of a request ID that is a UUID, as we make
// them, in 22 characters; "" for other IDs.
func shortRequest(id string) string {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.String() != id {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(parsed[:])
}

// longRequest reverses shortRequest; ok is false for what that never writes.
func longRequest(short string) (id string, ok bool) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(short)
	if err != nil || len(data) != len(uuid.UUID{}) {
		return "", false
	}
	return uuid.UUID(data).String(), true
}

// after returns how far a token is past a time, nil where that is no shorter than
// the token.
func after(token, at int64) *int64 {
	if token <= 0 || at <= 0 {
		return nil
	}
	if d := token - at; d > -maxAfter && d < maxAfter {
		return &d
	}
	return nil
}

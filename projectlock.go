package enhanced

import (
	"strings"

	"github.com/runatlantis/atlantis/server/events/models"
)

// SanitizeProjectLock returns the lock without credentials: CloneURL always
// holds one and is removed; a password in the other URLs is replaced.
func SanitizeProjectLock(lock models.ProjectLock) models.ProjectLock {
	lock.Pull = SanitizePull(lock.Pull)
	return lock
}

// SanitizePull does for a pull request what [SanitizeProjectLock] does for a lock.
func SanitizePull(pull models.PullRequest) models.PullRequest {
	pull.BaseRepo.CloneURL = ""
	pull.BaseRepo.SanitizedCloneURL = redactPassword(pull.BaseRepo.SanitizedCloneURL)
	pull.URL = redactPassword(pull.URL)
	return pull
}

const redacted = "<redacted>"

// redactPassword replaces what URLs in a text have before their host: a
// password, and over HTTP a user name that stands alone, which is how some hosts
// take a token. It works on text, since what stock calls sanitized
// ("https://user:<redacted>@host") does not parse.
func redactPassword(text string) string {
	before, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	end := len(rest)
	if i := strings.IndexAny(rest, "/?# "); i >= 0 {
		end = i
	}
	authority, after := rest[:end], redactPassword(rest[end:])
	// A password can itself contain an @: the last one ends it.
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, _, hasPassword := strings.Cut(authority[:at], ":")
		switch {
		case hasPassword:
			authority = user + ":" + redacted + authority[at:]
		case strings.HasSuffix(before, "http"), strings.HasSuffix(before, "https"):
			authority = redacted + authority[at:]
		}
	} else if after == rest[end:] {
		return text
	}
	return before + "://" + authority + after
}

// TransferProjectLock returns stock's form of a lock after it went to another
// owner. A pull request only holds locks of its own repository; anything else,
// and an owner that can't hold locks, is an INVALID_REQUEST.
func TransferProjectLock(lock models.ProjectLock, owner Owner) (models.ProjectLock, error) {
	switch {
	case owner.Kind == OwnerUser:
		lock.Pull = models.PullRequest{}
		lock.User = models.User{Username: owner.Name}
	case owner.Kind == OwnerPull && owner.Repository == lock.Project.RepoFullName:
		ownerName, name := models.SplitRepoFullName(owner.Repository)
		lock.Pull = models.PullRequest{Num: owner.Number, BaseRepo: models.Repo{
			FullName: owner.Repository, Owner: ownerName, Name: name,
			VCSHost: models.VCSHost{Hostname: owner.Host},
		}}
		lock.User = models.User{}
	case owner.Kind == OwnerPull:
		return lock, NewInvalidError("owner %s is a pull request of another repository than %q", owner, lock.Project.RepoFullName)
	default:
		return lock, NewInvalidError("owner %s can't hold locks; give a pull request or a user", owner)
	}
	return lock, nil
}

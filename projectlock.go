package enhanced

import (
	"regexp"
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

// redactPassword replaces the password of a URL. It works on text, since what
// stock calls sanitized ("https://user:<redacted>@host") does not parse.
func redactPassword(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	// Compiled here because URLs with user information are rare.
	userinfo := regexp.MustCompile(`://([^/@:]*):[^/@]*@`)
	return userinfo.ReplaceAllString(text, "://$1:"+redacted+"@")
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

package web

import (
	"strconv"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/events/models"
)

// lockView returns the lock as the API shows it.
func lockView(lock *enhanced.EnhancedLock) api.Lock {
	view := api.Lock{
		ID:          lock.ID,
		Type:        string(lock.Resource.Type),
		Repository:  lock.Resource.Namespace,
		Path:        lock.Resource.Path,
		Workspace:   lock.Resource.Workspace,
		ProjectName: lock.Resource.Name,
		State:       string(lock.State),
		Priority:    lock.Priority.String(),
		Owner:       ownerView(lock.Owner),
		OwnerID:     lock.Owner,
		Note:        lock.Metadata[enhanced.MetadataNote],
		AcquiredAt:  lock.AcquiredAt.UTC(),
		Token:       strconv.FormatInt(lock.Version, 10),
		Metadata:    lock.Metadata,
	}
	if lock.ExpiresAt != nil {
		expires := lock.ExpiresAt.UTC()
		view.ExpiresAt = &expires
	}
	if lock.OriginalLock != nil {
		view.RequestedBy = lock.OriginalLock.User.Username
		view.PullURL = lock.OriginalLock.Pull.URL
	}
	return view
}

// ownerView returns the owner with the text form as the API shows it. It is
// empty for a kind that the API does not know; the text form is shown beside it.
func ownerView(text string) api.Owner {
	owner, err := enhanced.ParseOwner(text)
	switch {
	case err != nil:
		return api.Owner{}
	case owner.Kind == enhanced.OwnerUser:
		return api.Owner{User: owner.Name}
	case owner.Kind == enhanced.OwnerPull:
		return api.Owner{Pull: owner.Number, Host: owner.Host}
	default:
		return api.Owner{}
	}
}

// ownerFrom returns the owner that a request names, of a lock in repository.
func ownerFrom(o api.Owner, repository string) (enhanced.Owner, error) {
	switch {
	case o.User != "" && o.Pull == 0 && o.Host == "":
		return enhanced.UserOwner(o.User), nil
	case o.User == "" && o.Pull != 0 && o.Host != "":
		return enhanced.PullOwner(o.Host, repository, o.Pull), nil
	default:
		return enhanced.Owner{}, enhanced.NewInvalidError("owner: give either user, or pull and host")
	}
}

// pullOf returns a pull request owner as stock Atlantis' type.
func pullOf(owner enhanced.Owner) *models.PullRequest {
	account, name := models.SplitRepoFullName(owner.Repository)
	return &models.PullRequest{
		Num: owner.Number,
		BaseRepo: models.Repo{
			FullName: owner.Repository,
			Owner:    account,
			Name:     name,
			VCSHost:  models.VCSHost{Hostname: owner.Host},
		},
	}
}

// resourceFrom returns the project resource with the names.
func resourceFrom(repository, path, workspace, projectName string) enhanced.ResourceIdentifier {
	project := models.Project{RepoFullName: repository, Path: path, ProjectName: projectName}
	return enhanced.ProjectResource(project, workspace)
}

// leaseFrom returns the lease that the text asks for.
func leaseFrom(text string) (time.Duration, error) {
	if text == api.NoTimeout || text == "" {
		return enhanced.NoTimeout, nil
	}
	lease, err := time.ParseDuration(text)
	if err != nil || lease <= 0 {
		return 0, enhanced.NewInvalidError("timeout %q is no lease: give a positive duration such as \"30m\", or %q", text, api.NoTimeout)
	}
	return lease, nil
}

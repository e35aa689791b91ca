package enhanced

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/runatlantis/atlantis/server/events/models"
)

// DefaultLeaser is a backend with a default lease of its own.
type DefaultLeaser interface {
	// DefaultLease is the lease of requests that name none, by a configuration.
	DefaultLease(config *EnhancedConfig) time.Duration
}

// defaultLease is the lease of requests that name none: the backend's, or
// DefaultTimeout.
func (m *EnhancedLockManager) defaultLease(config *EnhancedConfig) time.Duration {
	if leaser, ok := m.backend.(DefaultLeaser); ok {
		return leaser.DefaultLease(config)
	}
	return config.DefaultTimeout
}

// NormalizeRequest returns a validated copy of request as a backend is to
// decide it: with ID, RequestedAt, Resource, Project and Workspace filled in,
// and with a Timeout that is either a lease or NoTimeout. A zero Timeout
// becomes defaultLease; a longer one than maxLease is refused. Errors are
// INVALID_REQUEST.
func NormalizeRequest(request *EnhancedLockRequest, defaultLease, maxLease time.Duration) (*EnhancedLockRequest, error) {
	if request == nil {
		return nil, NewInvalidError("request is nil")
	}
	r := *request
	r.User.Teams = slices.Clone(r.User.Teams) // it outlives the call
	if err := r.resolveResource(); err != nil {
		return nil, err
	}
	if err := r.Resource.Validate(); err != nil {
		return nil, err
	}
	if r.Pull == nil && r.User.Username == "" {
		return nil, NewInvalidError("request has no owner: user is empty and there is no pull request")
	}
	if err := validateOwner(r.Owner()); err != nil {
		return nil, err
	}
	if r.Priority < PriorityLow || r.Priority > PriorityCritical {
		return nil, NewInvalidError("priority %d is outside %d (%s) to %d (%s)", int(r.Priority),
			int(PriorityLow), PriorityLow, int(PriorityCritical), PriorityCritical)
	}
	switch {
	case r.Timeout == 0:
		r.Timeout = defaultLease
	case r.Timeout == NoTimeout:
	case r.Timeout < time.Millisecond:
		return nil, NewInvalidError("timeout %v is not a lease; give at least 1ms, 0 for the default, or NoTimeout", r.Timeout)
	case r.Timeout > maxLease:
		return nil, NewInvalidError("timeout %v is above max_timeout %v", r.Timeout, maxLease)
	}
	if err := ValidateMetadata(r.Metadata); err != nil {
		return nil, err
	}
	if err := validateName("request ID", r.ID); err != nil {
		return nil, err
	}
	if r.ID == "" {
		if err := r.renewID(); err != nil {
			return nil, err
		}
	}
	if r.RequestedAt.IsZero() {
		r.RequestedAt = time.Now()
	}
	r.Metadata = maps.Clone(r.Metadata)
	return &r, nil
}

// resolveResource makes Resource, Project and Workspace say the same.
func (r *EnhancedLockRequest) resolveResource() error {
	named := r.Project != (models.Project{}) || r.Workspace != ""
	if r.Resource == (ResourceIdentifier{}) {
		r.Resource = ProjectResource(r.Project, r.Workspace)
	} else {
		r.Resource = r.Resource.Normalized()
	}
	same := r.Project == r.Resource.Project() && r.Workspace == r.Resource.Workspace
	if named && !same && r.Resource.Type == ResourceTypeProject {
		if fromProject := ProjectResource(r.Project, r.Workspace); r.Resource != fromProject {
			return NewInvalidError("resource %s and project %s differ; give one of them", r.Resource, fromProject)
		}
	}
	r.Project, r.Workspace = r.Resource.Project(), r.Resource.Workspace
	return nil
}

// validateStrict applies to a normalized request what the enhanced API asks of
// names beyond what stock Atlantis accepts.
func (r *EnhancedLockRequest) validateStrict() error {
	if err := r.Resource.validateStrict(); err != nil {
		return err
	}
	owner := r.Owner()
	for _, field := range []namedField{{"host", owner.Host}, {"user", owner.Name}} {
		if err := validateName(field.name, field.value); err != nil {
			return err
		}
		if field.value != "" && strings.TrimSpace(field.value) == "" {
			return NewInvalidError("%s %q is empty", field.name, field.value)
		}
	}
	return nil
}

// ProjectLock returns the lock that a granted request stands for, in stock
// Atlantis' form and without credentials.
func (r *EnhancedLockRequest) ProjectLock() models.ProjectLock {
	lock := models.ProjectLock{
		Project:   r.Project,
		Workspace: r.Workspace,
		User:      r.User,
		Time:      r.RequestedAt,
	}
	if r.Pull != nil {
		lock.Pull = *r.Pull
	}
	return SanitizeProjectLock(lock)
}

func validateOwner(o Owner) error {
	for _, field := range []namedField{{"host", o.Host}, {"repository", o.Repository}, {"user", o.Name}} {
		if err := validateText(field.name, field.value); err != nil {
			return err
		}
		if len(field.value) > maxResourceKey/4 {
			return NewInvalidError("%s %q has %d bytes, at most %d are allowed", field.name, clip(field.value), len(field.value), maxResourceKey/4)
		}
	}
	return nil
}

// renewID gives a request a new ID. It is ordered by time (RFC 9562, version 7): an
// ordered store writes neighbours on one page.
func (r *EnhancedLockRequest) renewID() error {
	id, err := uuid.NewV7()
	if err != nil {
		return NewBackendError("making a request ID", err)
	}
	r.ID = id.String()
	return nil
}

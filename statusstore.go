package enhanced

import (
	"time"

	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
)

// StatusStore holds what stock Atlantis keeps in its database beside locks:
// the status of pull requests and the global command locks. Backends implement
// it for adapters without a legacy database, under stock's keys and in its
// format but without credentials. Each method is one atomic step, means what
// it means in Atlantis' db.Database, and is safe for concurrent use.
type StatusStore interface {
	UpdateProjectStatus(pull models.PullRequest, workspace string, repoRelDir string, newStatus models.ProjectPlanStatus) error
	GetPullStatus(pull models.PullRequest) (*models.PullStatus, error)
	DeletePullStatus(pull models.PullRequest) error
	UpdatePullWithResults(pull models.PullRequest, newResults []command.ProjectResult) (models.PullStatus, error)

	LockCommand(cmdName command.Name, lockTime time.Time) (*command.Lock, error)
	UnlockCommand(cmdName command.Name) error
	CheckCommandLock(cmdName command.Name) (*command.Lock, error)
}

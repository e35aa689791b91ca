package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/runatlantis/atlantis/server/core/config/valid"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking"
	"github.com/runatlantis/atlantis/server/events"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/events/vcs"
	"github.com/runatlantis/atlantis/server/jobs"
	"github.com/runatlantis/atlantis/server/logging"
	"github.com/stretchr/testify/require"
)

// atlantis is Atlantis' own code that plans and that cleans up after a closed
// pull request, on a database. Around it are the parts that know git and the
// VCS: directories instead of clones, and comments that are kept.
type atlantis struct {
	db      db.Database
	planner *events.PlanCommandRunner
	closer  *events.PullClosedExecutor
	dirs    *directories
	vcs     *forge
	builder *builder
}

func newAtlantis(t *testing.T, database db.Database) *atlantis {
	t.Helper()
	client := locking.NewClient(database)
	a := &atlantis{
		db:      database,
		dirs:    &directories{root: t.TempDir()},
		vcs:     &forge{NotConfiguredVCSClient: &vcs.NotConfiguredVCSClient{Host: models.Github}},
		builder: &builder{projects: make(map[int][]string)},
	}
	dirLocker := events.NewDefaultWorkingDirLocker()
	statuses := &events.DefaultCommitStatusUpdater{Client: a.vcs, StatusName: "atlantis"}
	updater := &events.DBUpdater{Database: database}
	comments := &events.PullUpdater{
		VCSClient:        a.vcs,
		MarkdownRenderer: events.NewMarkdownRenderer(false, false, false, false, false, false, "", "atlantis", false, false),
	}
	projects := &events.DefaultProjectCommandRunner{
		VcsClient: a.vcs,
		Locker: &events.DefaultProjectLocker{
			Locker: client, NoOpLocker: locking.NewNoOpLocker(), VCSClient: a.vcs, ExecutableName: "atlantis",
		},
		LockURLGenerator:          a.vcs,
		Logger:                    logging.NewNoopLogger(t),
		WorkingDir:                a.dirs,
		WorkingDirLocker:          dirLocker,
		CommandRequirementHandler: &events.DefaultCommandRequirementHandler{WorkingDir: a.dirs},
	}
	a.planner = events.NewPlanCommandRunner(
		false, false, a.vcs, &events.DefaultPendingPlanFinder{}, a.dirs, dirLocker, statuses, a.builder, projects, nil,
		updater, comments, events.NewPolicyCheckCommandRunner(updater, comments, statuses, nil, 1, false, false),
		&events.AutoMerger{VCSClient: a.vcs}, 1, false, database, client, false, a.vcs, false,
	)
	a.closer = &events.PullClosedExecutor{
		Locker: client, VCSClient: a.vcs, WorkingDir: a.dirs, Database: database,
		PullClosedTemplate: &events.PullClosedEventTemplate{}, LogStreamResourceCleaner: a.vcs,
	}
	return a
}

// push has Atlantis plan the projects of a pull request, as after a push of a
// commit, and returns what it comments.
func (a *atlantis) push(t *testing.T, number int, commit string, projects ...string) (comment string) {
	t.Helper()
	a.builder.set(number, projects)
	pull := a.pull(number, commit)
	a.planner.Run(&command.Context{
		HeadRepo: pull.BaseRepo, Pull: pull, User: models.User{Username: "runner"},
		Log: logging.NewNoopLogger(t), Trigger: command.AutoTrigger,
	}, nil)
	return a.vcs.last(number)
}

// close has Atlantis clean up after a pull request.
func (a *atlantis) close(t *testing.T, number int, commit string) {
	t.Helper()
	pull := a.pull(number, commit)
	require.NoError(t, a.closer.CleanUpPull(logging.NewNoopLogger(t), pull.BaseRepo, pull))
}

func (a *atlantis) pull(number int, commit string) models.PullRequest {
	return models.PullRequest{
		Num: number, HeadCommit: commit, BaseBranch: "main", HeadBranch: "feature",
		BaseRepo: models.Repo{
			FullName: "org/app", Owner: "org", Name: "app",
			VCSHost: models.VCSHost{Hostname: "github.com", Type: models.Github},
		},
	}
}

// holder returns the pull request that a project is locked by, 0 for none.
func (a *atlantis) holder(t *testing.T, project string) int {
	t.Helper()
	lock, err := a.db.GetLock(models.NewProject("org/app", project, ""), "default")
	require.NoError(t, err)
	if lock == nil {
		return 0
	}
	return lock.Pull.Num
}

// directories are working directories. Atlantis asks for one once it has the lock
// of a project: meanwhile is called then.
type directories struct {
	events.WorkingDir // what is not needed here
	root              string
	mu                sync.Mutex
	meanwhile         func(number, nth int)
	clones            map[int]int
}

// during has fn called each time a plan is under way. nth counts from 1.
func (d *directories) during(fn func(number, nth int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.meanwhile, d.clones = fn, make(map[int]int)
}

func (d *directories) path(p models.PullRequest) string {
	return filepath.Join(d.root, fmt.Sprint(p.Num))
}

func (d *directories) Clone(_ logging.SimpleLogging, _ models.Repo, p models.PullRequest, _ string) (string, error) {
	d.mu.Lock()
	meanwhile, nth := d.meanwhile, 0
	if meanwhile != nil {
		d.clones[p.Num]++
		nth = d.clones[p.Num]
	}
	d.mu.Unlock()
	if meanwhile != nil {
		meanwhile(p.Num, nth)
	}
	for _, name := range []string{"one", "two", "three"} {
		if err := os.MkdirAll(filepath.Join(d.path(p), name), 0o700); err != nil {
			return "", err
		}
	}
	return d.path(p), nil
}

func (d *directories) MergeAgain(logging.SimpleLogging, models.Repo, models.PullRequest, string) (bool, error) {
	return false, nil
}

// GetPullDir says that there are no plans to delete: only those of real Terraform
// leave any.
func (d *directories) GetPullDir(models.Repo, models.PullRequest) (string, error) {
	return "", os.ErrNotExist
}

func (d *directories) Delete(_ logging.SimpleLogging, _ models.Repo, p models.PullRequest) error {
	return os.RemoveAll(d.path(p))
}

func (d *directories) DeletePlan(logging.SimpleLogging, models.Repo, models.PullRequest, string, string, string) error {
	return nil
}

func (d *directories) GitReadLock(models.Repo, models.PullRequest, string) func() { return func() {} }

// forge is a VCS that keeps comments.
type forge struct {
	*vcs.NotConfiguredVCSClient
	mu       sync.Mutex
	comments map[int]string
}

func (f *forge) CreateComment(_ logging.SimpleLogging, _ models.Repo, number int, comment, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.comments == nil {
		f.comments = make(map[int]string)
	}
	f.comments[number] = comment
	return nil
}

func (f *forge) last(number int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.comments[number]
}

func (f *forge) MarkdownPullLink(p models.PullRequest) (string, error) {
	return fmt.Sprint("#", p.Num), nil
}

func (f *forge) UpdateStatus(logging.SimpleLogging, models.Repo, models.PullRequest, models.CommitStatus, string, string, string) error {
	return nil
}

func (f *forge) FetchPullStatus(logging.SimpleLogging, models.PullRequest) (models.PullReqStatus, error) {
	return models.PullReqStatus{}, nil
}

func (f *forge) GenerateLockURL(id string) string { return "https://atlantis.invalid/lock?id=" + id }

func (f *forge) CleanUp(jobs.PullInfo) {}

// builder says which projects a pull request changes.
type builder struct {
	mu       sync.Mutex
	projects map[int][]string
}

func (b *builder) set(number int, projects []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.projects[number] = projects
}

func (b *builder) ShouldIgnoreTargetedDir(*command.Context, *events.CommentCommand) bool {
	return false
}

func (b *builder) BuildAutoplanCommands(ctx *command.Context) (commands []command.ProjectContext, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, project := range b.projects[ctx.Pull.Num] {
		commands = append(commands, command.ProjectContext{
			CommandName: command.Plan, BaseRepo: ctx.Pull.BaseRepo, HeadRepo: ctx.HeadRepo, Pull: ctx.Pull, User: ctx.User,
			Log: ctx.Log, RepoRelDir: project, Workspace: "default", RepoLocksMode: valid.RepoLocksOnPlanMode,
		})
	}
	return commands, nil
}

func (b *builder) BuildPlanCommands(ctx *command.Context, _ *events.CommentCommand) ([]command.ProjectContext, error) {
	return b.BuildAutoplanCommands(ctx)
}

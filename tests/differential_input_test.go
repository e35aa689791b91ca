package tests

import (
	"errors"
	"strings"

	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"pgregory.net/rapid"
)

// What the calls of the differential test ask for: few repositories, projects
// and numbers, so that calls meet, and now and then what is odd.

type weighted[T any] struct {
	weight int
	value  T
}

// pick draws one of the values, by weight. The first is the simplest.
func pick[T any](t *rapid.T, label string, choices []weighted[T]) T {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := rapid.IntRange(0, total-1).Draw(t, label)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			return c.value
		}
	}
	panic("unreachable")
}

func oneOf[T any](t *rapid.T, label string, values ...T) T {
	return values[rapid.IntRange(0, len(values)-1).Draw(t, label)]
}

// drawRepository draws one of several repositories whose names start with each
// other.
func drawRepository(t *rapid.T) string {
	return oneOf(t, "repository", "org/app", "org/app-prod", "org/ap", "group/sub", "group/sub/repo")
}

// drawPath draws a path. "repo/envs" of group/sub and "envs" of group/sub/repo
// have one key.
func drawPath(t *rapid.T) string { return oneOf(t, "path", ".", "envs", "repo/envs") }

func drawWorkspace(t *rapid.T) string { return oneOf(t, "workspace", "default", "prod") }

func drawProject(t *rapid.T) models.Project {
	return models.NewProject(drawRepository(t), drawPath(t), oneOf(t, "project", "", "p"))
}

// drawOddProject draws a project of which now and then a part is odd.
func drawOddProject(t *rapid.T) models.Project {
	project := drawProject(t)
	long := strings.Repeat("long/", 3_300)
	part := pick(t, "odd", []weighted[*string]{{100, nil}, {1, &project.RepoFullName}, {6, &project.Path}, {2, &project.ProjectName}})
	if part == nil {
		return project
	}
	switch part {
	case &project.Path:
		*part = oneOf(t, "odd path", "envs/", "./envs", "x/../envs", "", "/", "repo//envs", "a\x00b", "a\nb", "\xff", long)
	default:
		*part = oneOf(t, "odd name", "org/a\x1bb", "org/\xff", "org/\u0085", long+"name")
	}
	return project
}

func drawNumber(t *rapid.T) int { return oneOf(t, "number", 5, 55, 0, -5) }

// drawKey draws a lock's key, or what is none.
func drawKey(t *rapid.T) string {
	return pick(t, "key", []weighted[func() string]{
		{50, func() string { return models.GenerateLockKey(drawProject(t), drawWorkspace(t)) }},
		{1, func() string {
			return oneOf(t, "odd key", "", "org/app", "org/app/./default", "org//./default/", "///", "////")
		}},
	})()
}

func drawURL(t *rapid.T, label string) string {
	return pick(t, label, []weighted[string]{
		{4, "https://github.com/org/app/pull/5"}, {2, "https://bot:<redacted>@github.com/org/app.git"},
		{1, "https://bot:" + token + "@github.com/org/app.git"}, {1, ""},
	})
}

// drawPull draws a pull request. Its repository is the project's or not: no
// answer may depend on it.
func drawPull(t *rapid.T) models.PullRequest {
	host := oneOf(t, "host", models.VCSHost{Hostname: "github.com", Type: models.Github}, models.VCSHost{Hostname: "gitlab.com", Type: models.Gitlab}, models.VCSHost{})
	pull := models.PullRequest{
		Num:        drawNumber(t),
		HeadCommit: oneOf(t, "commit", "9d7f8b1f", "00000000"),
		BaseBranch: oneOf(t, "base", "main", "", "release"),
		BaseRepo:   models.Repo{FullName: drawRepository(t), VCSHost: host},
	}
	if rapid.Bool().Draw(t, "full") {
		pull.URL = drawURL(t, "URL")
		pull.HeadBranch, pull.Author = "feature", oneOf(t, "author", "author", "ä<>&\u2028")
		pull.HardenedNonPRRefCheckout = true
		pull.State = models.ClosedPullState
		pull.Body = oneOf(t, "body", "", "a\x00b\r\n", "\xff", "🔒")
		pull.BaseRepo.Owner, pull.BaseRepo.Name = "org", "app"
		pull.BaseRepo.CloneURL = drawURL(t, "clone URL")
		pull.BaseRepo.SanitizedCloneURL = drawURL(t, "sanitized clone URL")
	}
	return pull
}

func drawUser(t *rapid.T) models.User {
	return oneOf(t, "user", models.User{Username: "runner"}, models.User{}, models.User{Username: "a\tb", Teams: []string{"x", ""}}, models.User{Teams: nil})
}

func drawCommand(t *rapid.T) command.Name { return oneOf(t, "command", command.Apply, command.Plan) }

func drawResults(t *rapid.T) []command.ProjectResult {
	results := make([]command.ProjectResult, rapid.IntRange(0, 2).Draw(t, "results"))
	for i := range results {
		r := &results[i]
		r.Command = oneOf(t, "result of", command.Plan, command.Apply, command.PolicyCheck)
		r.Workspace, r.RepoRelDir, r.ProjectName = drawWorkspace(t), drawPath(t), oneOf(t, "project", "", "p")
		switch oneOf(t, "outcome", "ok", "error", "failure", "policies") {
		case "error":
			r.Error = errors.New("no")
		case "failure":
			r.Failure = "no"
		case "policies":
			r.PolicyCheckResults = &models.PolicyCheckResults{PolicySetResults: []models.PolicySetResult{
				{PolicySetName: oneOf(t, "policy", "a", "b"), Passed: rapid.Bool().Draw(t, "passed")},
			}}
		}
		if r.Command == command.Plan && r.Error == nil && r.Failure == "" {
			r.PlanSuccess = &models.PlanSuccess{TerraformOutput: "Plan: 1 to add"}
		}
	}
	return results
}
